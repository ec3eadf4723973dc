-- What PostgreSQL's clients look up about a database, as far as it is so here. DuckDB's own
-- pg_catalog answers much of it, but with OIDs of its own and without columns that drivers ask for.
-- flordb/serve/pg/catalog.py sends queries of pg_catalog to the schema `pg`; what is not there goes to
-- DuckDB's. The last two views stand in for those of information_schema.
--
-- OIDs of types are PostgreSQL's; those of tables are hashes of their names, so that they are the
-- same in each session.

CREATE SCHEMA pg;

-- Columns of `flor` that have a statement in the code, but no value yet. The server fills it.
CREATE TABLE pg.virtual (column_name VARCHAR, place INTEGER);

CREATE MACRO pg_oid_of(name) AS (16384 + md5_number_lower(name) % 1000000000)::BIGINT;

-- As flordb/serve/pg/types.py has it; a test compares the two.
CREATE MACRO pg_type_of(kind) AS CASE
    WHEN kind LIKE 'DECIMAL%' THEN 'numeric'
    WHEN kind LIKE 'STRUCT(%' OR kind LIKE 'MAP(%' OR kind LIKE 'UNION(%' THEN 'json'
    ELSE coalesce(map {
        'BOOLEAN': 'bool', 'TINYINT': 'int2', 'SMALLINT': 'int2', 'UTINYINT': 'int2',
        'INTEGER': 'int4', 'USMALLINT': 'int4', 'BIGINT': 'int8', 'UINTEGER': 'int8',
        'UBIGINT': 'numeric', 'HUGEINT': 'numeric', 'UHUGEINT': 'numeric', 'BIGNUM': 'numeric',
        'FLOAT': 'float4', 'DOUBLE': 'float8', 'BLOB': 'bytea', 'DATE': 'date', 'TIME': 'time',
        'TIMESTAMP': 'timestamp', 'TIMESTAMP_S': 'timestamp', 'TIMESTAMP_MS': 'timestamp',
        'TIMESTAMP_NS': 'timestamp', 'TIMESTAMP WITH TIME ZONE': 'timestamptz',
        'INTERVAL': 'interval', 'UUID': 'uuid', 'JSON': 'json', 'VARIANT': 'json'
    }[kind], 'text') END;

CREATE MACRO pg_type_name(kind) AS CASE
    WHEN NOT (kind LIKE '%]') THEN pg_type_of(kind)
    WHEN regexp_replace(kind, '\[\d*\]$', '') LIKE '%]' THEN 'json'
    WHEN pg_type_of(regexp_replace(kind, '\[\d*\]$', '')) IN ('json', 'bytea', 'interval') THEN 'json'
    ELSE '_' || pg_type_of(regexp_replace(kind, '\[\d*\]$', '')) END;

-- name, oid, bytes of a value, category, oid of its arrays, name in SQL
CREATE TABLE pg.types AS SELECT * FROM (VALUES
    ('bool', 16, 1, 'B', 1000, 'boolean'), ('bytea', 17, -1, 'U', 1001, 'bytea'),
    ('char', 18, 1, 'Z', 1002, '"char"'), ('name', 19, 64, 'S', 1003, 'name'),
    ('int8', 20, 8, 'N', 1016, 'bigint'), ('int2', 21, 2, 'N', 1005, 'smallint'),
    ('int4', 23, 4, 'N', 1007, 'integer'), ('text', 25, -1, 'S', 1009, 'text'),
    ('oid', 26, 4, 'N', 1028, 'oid'), ('json', 114, -1, 'U', 199, 'json'),
    ('float4', 700, 4, 'N', 1021, 'real'), ('float8', 701, 8, 'N', 1022, 'double precision'),
    ('unknown', 705, -2, 'X', 0, 'unknown'), ('bpchar', 1042, -1, 'S', 1014, 'character'),
    ('varchar', 1043, -1, 'S', 1015, 'character varying'), ('date', 1082, 4, 'D', 1182, 'date'),
    ('time', 1083, 8, 'D', 1183, 'time without time zone'),
    ('timestamp', 1114, 8, 'D', 1115, 'timestamp without time zone'),
    ('timestamptz', 1184, 8, 'D', 1185, 'timestamp with time zone'),
    ('interval', 1186, 16, 'T', 1187, 'interval'), ('numeric', 1700, -1, 'N', 1231, 'numeric'),
    ('uuid', 2950, 16, 'U', 2951, 'uuid')
) AS t(typname, oid, typlen, typcategory, typarray, sql_name);

CREATE VIEW pg.pg_type AS
WITH named AS (
    SELECT oid, typname, typlen, typcategory, 0 AS typelem, typarray, 'b' AS typtype FROM pg.types
    UNION ALL
    SELECT typarray, '_' || typname, -1, 'A', oid, 0, 'b' FROM pg.types WHERE typarray > 0
)
SELECT oid::BIGINT AS oid, typname, 11::BIGINT AS typnamespace, 10::BIGINT AS typowner,
    typlen::SMALLINT AS typlen, typlen > 0 AND typlen <= 8 AS typbyval, typtype, typcategory,
    typname IN ('text', 'float8', 'bool', 'timestamptz', 'oid', 'interval') AS typispreferred,
    true AS typisdefined, ',' AS typdelim, 0::BIGINT AS typrelid, typelem::BIGINT AS typelem,
    typarray::BIGINT AS typarray, typname || 'in' AS typinput, typname || 'out' AS typoutput,
    CASE WHEN typelem > 0 THEN 'array_recv' ELSE typname || 'recv' END AS typreceive,
    typname || 'send' AS typsend, '-' AS typmodin, '-' AS typmodout, '-' AS typanalyze,
    'i' AS typalign, 'p' AS typstorage, false AS typnotnull, 0::BIGINT AS typbasetype,
    -1::INTEGER AS typtypmod, 0::INTEGER AS typndims,
    CASE WHEN typcategory = 'S' THEN 100 ELSE 0 END::BIGINT AS typcollation,
    NULL::VARCHAR AS typdefaultbin, NULL::VARCHAR AS typdefault, NULL::VARCHAR AS typacl,
    typelem::BIGINT AS typsubscript
FROM named;

CREATE VIEW pg.columns AS
WITH listed AS (
    SELECT table_name, column_name, column_index AS place, data_type FROM duckdb_columns()
    WHERE database_name = current_database() AND schema_name = 'main' AND NOT internal
    AND table_name NOT IN ('files', 'meta', 'nests', 'name_kinds', 'loop_kinds')
    AND NOT starts_with(table_name, 'flor_')
    UNION ALL
    SELECT 'flor', column_name, 100000 + place, 'DOUBLE' FROM pg.virtual
)
SELECT table_name, column_name, data_type, pg_type_name(data_type) AS typname,
    row_number() OVER (PARTITION BY table_name ORDER BY place) AS attnum,
    CASE WHEN data_type LIKE 'DECIMAL(%'
        THEN regexp_extract(data_type, '\((\d+),', 1)::INTEGER * 65536
            + regexp_extract(data_type, ',(\d+)\)', 1)::INTEGER + 4
        ELSE -1 END AS atttypmod
FROM listed;

CREATE VIEW pg.pg_namespace AS SELECT * FROM (VALUES
    (11::BIGINT, 'pg_catalog', 10::BIGINT, NULL::VARCHAR), (2200, 'main', 10, NULL),
    (13000, 'information_schema', 10, NULL)
) AS t(oid, nspname, nspowner, nspacl);

CREATE VIEW pg.pg_class AS
SELECT pg_oid_of(table_name) AS oid, table_name AS relname, 2200::BIGINT AS relnamespace,
    0::BIGINT AS reltype, 0::BIGINT AS reloftype, 10::BIGINT AS relowner, 2::BIGINT AS relam,
    0::BIGINT AS relfilenode, 0::BIGINT AS reltablespace, 0::INTEGER AS relpages,
    -1::FLOAT AS reltuples, 0::INTEGER AS relallvisible, 0::BIGINT AS reltoastrelid,
    false AS relhasindex, false AS relisshared, 'p' AS relpersistence, 'r' AS relkind,
    count(*)::SMALLINT AS relnatts, 0::SMALLINT AS relchecks, false AS relhasrules,
    false AS relhastriggers, false AS relhassubclass, false AS relrowsecurity,
    false AS relforcerowsecurity, true AS relispopulated, 'd' AS relreplident,
    false AS relispartition, 0::BIGINT AS relrewrite, 0::BIGINT AS relfrozenxid,
    0::BIGINT AS relminmxid, NULL::VARCHAR AS relacl, NULL::VARCHAR[] AS reloptions,
    NULL::VARCHAR AS relpartbound, false AS relhasoids, 0::BIGINT AS xmin, 1259::BIGINT AS tableoid
FROM pg.columns GROUP BY table_name;

CREATE VIEW pg.pg_attribute AS
SELECT pg_oid_of(c.table_name) AS attrelid, c.column_name AS attname, t.oid AS atttypid,
    -1::INTEGER AS attstattarget, t.typlen AS attlen, c.attnum::SMALLINT AS attnum,
    0::INTEGER AS attndims, -1::INTEGER AS attcacheoff, c.atttypmod::INTEGER AS atttypmod,
    t.typbyval AS attbyval, 'p' AS attstorage, '' AS attcompression, 'i' AS attalign,
    false AS attnotnull, false AS atthasdef, false AS atthasmissing, '' AS attidentity,
    '' AS attgenerated, false AS attisdropped, true AS attislocal, 0::INTEGER AS attinhcount,
    t.typcollation AS attcollation, NULL::VARCHAR AS attacl, NULL::VARCHAR[] AS attoptions,
    NULL::VARCHAR[] AS attfdwoptions, NULL::VARCHAR AS attmissingval
FROM pg.columns c JOIN pg.pg_type t USING (typname);

CREATE VIEW pg.pg_database AS
SELECT 5::BIGINT AS oid, 'flordb' AS datname, 10::BIGINT AS datdba, 6::INTEGER AS encoding,
    'c' AS datlocprovider, false AS datistemplate, true AS datallowconn, -1::INTEGER AS datconnlimit,
    0::BIGINT AS datfrozenxid, 1663::BIGINT AS dattablespace, 'C' AS datcollate, 'C' AS datctype,
    NULL::VARCHAR AS daticulocale, NULL::VARCHAR AS daticurules, NULL::VARCHAR AS datcollversion,
    NULL::VARCHAR AS datacl;

CREATE VIEW pg.pg_roles AS
SELECT 10::BIGINT AS oid, 'flor' AS rolname, false AS rolsuper, true AS rolinherit,
    false AS rolcreaterole, false AS rolcreatedb, true AS rolcanlogin, false AS rolreplication,
    false AS rolbypassrls, -1::INTEGER AS rolconnlimit, NULL::VARCHAR AS rolpassword,
    NULL::TIMESTAMPTZ AS rolvaliduntil, NULL::VARCHAR[] AS rolconfig;
CREATE VIEW pg.pg_authid AS FROM pg.pg_roles;
CREATE VIEW pg.pg_user AS
SELECT rolname AS usename, oid AS usesysid, rolcreatedb AS usecreatedb, rolsuper AS usesuper,
    rolreplication AS userepl, rolbypassrls AS usebypassrls, rolpassword AS passwd,
    rolvaliduntil AS valuntil, rolconfig AS useconfig
FROM pg.pg_roles;

CREATE VIEW pg.pg_am AS SELECT 2::BIGINT AS oid, 'heap' AS amname, '-' AS amhandler, 't' AS amtype;
CREATE VIEW pg.pg_collation AS
SELECT 100::BIGINT AS oid, 'default' AS collname, 11::BIGINT AS collnamespace,
    10::BIGINT AS collowner, 'd' AS collprovider, true AS collisdeterministic,
    -1::INTEGER AS collencoding, NULL::VARCHAR AS collcollate, NULL::VARCHAR AS collctype,
    NULL::VARCHAR AS colliculocale, NULL::VARCHAR AS collversion;
CREATE VIEW pg.pg_tablespace AS
SELECT 1663::BIGINT AS oid, 'pg_default' AS spcname, 10::BIGINT AS spcowner,
    NULL::VARCHAR AS spcacl, NULL::VARCHAR[] AS spcoptions;
CREATE VIEW pg.pg_tables AS
SELECT 'main' AS schemaname, relname AS tablename, 'flor' AS tableowner,
    NULL::VARCHAR AS tablespace, false AS hasindexes, false AS hasrules, false AS hastriggers,
    false AS rowsecurity
FROM pg.pg_class;

-- There are none of these. Their columns are those that clients ask for.
CREATE VIEW pg.pg_index AS
SELECT NULL::BIGINT AS indexrelid, NULL::BIGINT AS indrelid, 0::SMALLINT AS indnatts,
    0::SMALLINT AS indnkeyatts, false AS indisunique, false AS indnullsnotdistinct,
    false AS indisprimary, false AS indisexclusion, false AS indimmediate, false AS indisclustered,
    false AS indisvalid, false AS indcheckxmin, false AS indisready, false AS indislive,
    false AS indisreplident, NULL::BIGINT[] AS indkey, NULL::BIGINT[] AS indcollation,
    NULL::BIGINT[] AS indclass, NULL::BIGINT[] AS indoption, NULL::VARCHAR AS indexprs,
    NULL::VARCHAR AS indpred
WHERE false;
CREATE VIEW pg.pg_constraint AS
SELECT NULL::BIGINT AS oid, '' AS conname, NULL::BIGINT AS connamespace, '' AS contype,
    false AS condeferrable, false AS condeferred, false AS convalidated, NULL::BIGINT AS conrelid,
    NULL::BIGINT AS contypid, NULL::BIGINT AS conindid, NULL::BIGINT AS conparentid,
    NULL::BIGINT AS confrelid, '' AS confupdtype, '' AS confdeltype, '' AS confmatchtype,
    false AS conislocal, 0::INTEGER AS coninhcount, false AS connoinherit,
    NULL::BIGINT[] AS conkey, NULL::BIGINT[] AS confkey, NULL::BIGINT[] AS conpfeqop,
    NULL::BIGINT[] AS conppeqop, NULL::BIGINT[] AS conffeqop, NULL::BIGINT[] AS conexclop,
    NULL::VARCHAR AS conbin
WHERE false;
CREATE VIEW pg.pg_attrdef AS
SELECT NULL::BIGINT AS oid, NULL::BIGINT AS adrelid, 0::SMALLINT AS adnum, '' AS adbin WHERE false;
CREATE VIEW pg.pg_description AS
SELECT NULL::BIGINT AS objoid, NULL::BIGINT AS classoid, 0::INTEGER AS objsubid, '' AS description
WHERE false;
CREATE VIEW pg.pg_shdescription AS
SELECT NULL::BIGINT AS objoid, NULL::BIGINT AS classoid, '' AS description WHERE false;
CREATE VIEW pg.pg_inherits AS
SELECT NULL::BIGINT AS inhrelid, NULL::BIGINT AS inhparent, 0::INTEGER AS inhseqno,
    false AS inhdetachpending
WHERE false;
CREATE VIEW pg.pg_trigger AS
SELECT NULL::BIGINT AS oid, NULL::BIGINT AS tgrelid, NULL::BIGINT AS tgparentid, '' AS tgname,
    NULL::BIGINT AS tgfoid, 0::SMALLINT AS tgtype, '' AS tgenabled, false AS tgisinternal,
    NULL::BIGINT AS tgconstraint
WHERE false;
CREATE VIEW pg.pg_policy AS
SELECT NULL::BIGINT AS oid, '' AS polname, NULL::BIGINT AS polrelid, '' AS polcmd,
    false AS polpermissive, NULL::BIGINT[] AS polroles, '' AS polqual, '' AS polwithcheck
WHERE false;
CREATE VIEW pg.pg_rewrite AS
SELECT NULL::BIGINT AS oid, '' AS rulename, NULL::BIGINT AS ev_class, '' AS ev_type,
    '' AS ev_enabled, false AS is_instead
WHERE false;
CREATE VIEW pg.pg_enum AS
SELECT NULL::BIGINT AS oid, NULL::BIGINT AS enumtypid, 0::FLOAT AS enumsortorder, '' AS enumlabel
WHERE false;
CREATE VIEW pg.pg_range AS
SELECT NULL::BIGINT AS rngtypid, NULL::BIGINT AS rngsubtype, NULL::BIGINT AS rngmultitypid,
    NULL::BIGINT AS rngcollation, NULL::BIGINT AS rngsubopc
WHERE false;
-- Our functions that are for users; DuckDB's own would be hundreds.
CREATE VIEW pg.functions AS
SELECT 20000 + row_number() OVER (ORDER BY function_name, function_type)::BIGINT AS oid,
    function_name, coalesce(return_type, 'TABLE') AS result,
    array_to_string(list_transform(parameters, lambda name, n:
        name || CASE WHEN parameter_types[n] IS NULL THEN '' ELSE ' ' || lower(parameter_types[n]) END
    ), ', ') AS arguments
FROM duckdb_functions()
WHERE function_name IN ('flor_pivot', 'git_source', 'flor_array', 'flor_array_shape');
CREATE VIEW pg.pg_proc AS
SELECT oid, function_name AS proname, 2200::BIGINT AS pronamespace, 10::BIGINT AS proowner,
    'f' AS prokind, result = 'TABLE' AS proretset, 25::BIGINT AS prorettype,
    len(string_split(arguments, ','))::SMALLINT AS pronargs,
    []::BIGINT[] AS proargtypes, NULL::BIGINT[] AS proallargtypes, NULL::VARCHAR[] AS proargmodes,
    NULL::VARCHAR[] AS proargnames, function_name AS prosrc, NULL::BIGINT AS prolang,
    's' AS provolatile
FROM pg.functions;
CREATE VIEW pg.pg_statistic_ext AS
SELECT NULL::BIGINT AS oid, NULL::BIGINT AS stxrelid, '' AS stxname, NULL::BIGINT AS stxnamespace,
    NULL::BIGINT[] AS stxkeys, NULL::VARCHAR[] AS stxkind, 0::INTEGER AS stxstattarget
WHERE false;
CREATE VIEW pg.pg_publication AS
SELECT NULL::BIGINT AS oid, '' AS pubname, false AS puballtables WHERE false;
CREATE VIEW pg.pg_publication_rel AS
SELECT NULL::BIGINT AS oid, NULL::BIGINT AS prpubid, NULL::BIGINT AS prrelid, '' AS prqual,
    NULL::BIGINT[] AS prattrs
WHERE false;
CREATE VIEW pg.pg_publication_namespace AS
SELECT NULL::BIGINT AS oid, NULL::BIGINT AS pnpubid, NULL::BIGINT AS pnnspid WHERE false;
CREATE VIEW pg.pg_extension AS
SELECT NULL::BIGINT AS oid, '' AS extname, NULL::BIGINT AS extnamespace, '' AS extversion WHERE false;
CREATE VIEW pg.pg_foreign_table AS
SELECT NULL::BIGINT AS ftrelid, NULL::BIGINT AS ftserver, NULL::VARCHAR[] AS ftoptions WHERE false;
CREATE VIEW pg.pg_foreign_server AS
SELECT NULL::BIGINT AS oid, '' AS srvname, NULL::BIGINT AS srvfdw WHERE false;
CREATE VIEW pg.pg_sequence AS
SELECT NULL::BIGINT AS seqrelid, NULL::BIGINT AS seqtypid, NULL::BIGINT AS seqstart,
    NULL::BIGINT AS seqincrement, NULL::BIGINT AS seqmax, NULL::BIGINT AS seqmin,
    NULL::BIGINT AS seqcache, false AS seqcycle
WHERE false;
CREATE VIEW pg.pg_depend AS
SELECT NULL::BIGINT AS classid, NULL::BIGINT AS objid, 0::INTEGER AS objsubid,
    NULL::BIGINT AS refclassid, NULL::BIGINT AS refobjid, 0::INTEGER AS refobjsubid, '' AS deptype
WHERE false;
CREATE VIEW pg.pg_matviews AS
SELECT '' AS schemaname, '' AS matviewname, '' AS matviewowner, '' AS definition WHERE false;
CREATE VIEW pg.pg_views AS
SELECT '' AS schemaname, '' AS viewname, '' AS viewowner, '' AS definition WHERE false;
CREATE VIEW pg.pg_indexes AS
SELECT '' AS schemaname, '' AS tablename, '' AS indexname, '' AS tablespace, '' AS indexdef
WHERE false;
CREATE VIEW pg.pg_auth_members AS
SELECT NULL::BIGINT AS roleid, NULL::BIGINT AS member, NULL::BIGINT AS grantor,
    false AS admin_option
WHERE false;
CREATE VIEW pg.pg_stat_user_tables AS
SELECT NULL::BIGINT AS relid, '' AS schemaname, '' AS relname, NULL::BIGINT AS n_live_tup WHERE false;
CREATE VIEW pg.pg_partitioned_table AS
SELECT NULL::BIGINT AS partrelid, '' AS partstrat, NULL::BIGINT[] AS partattrs WHERE false;
CREATE VIEW pg.pg_language AS SELECT NULL::BIGINT AS oid, '' AS lanname WHERE false;
CREATE VIEW pg.pg_opclass AS
SELECT NULL::BIGINT AS oid, '' AS opcname, NULL::BIGINT AS opcmethod, false AS opcdefault WHERE false;
CREATE VIEW pg.pg_settings AS SELECT * FROM (VALUES
    ('max_identifier_length', '63', NULL::VARCHAR), ('max_index_keys', '32', NULL),
    ('server_version', '15.0', NULL), ('server_version_num', '150000', NULL),
    ('server_encoding', 'UTF8', NULL), ('standard_conforming_strings', 'on', NULL)
) AS t(name, setting, unit);

CREATE MACRO pg_get_userbyid(id) AS 'flor';
CREATE MACRO pg_encoding_to_char(id) AS 'UTF8';
CREATE MACRO pg_get_expr(expression, relation, pretty := false) AS expression::VARCHAR;
CREATE MACRO pg_get_indexdef(index, place := 0, pretty := false) AS NULL::VARCHAR;
CREATE MACRO pg_get_statisticsobjdef_columns(id) AS NULL::VARCHAR;
CREATE MACRO pg_get_partkeydef(id) AS NULL::VARCHAR;
CREATE MACRO pg_get_serial_sequence(relation, attribute) AS NULL::VARCHAR;
CREATE MACRO pg_relation_is_publishable(id) AS false;
CREATE MACRO pg_relation_size(id) AS 0::BIGINT;
CREATE MACRO pg_total_relation_size(id) AS 0::BIGINT;
CREATE MACRO pg_table_size(id) AS 0::BIGINT;
CREATE MACRO pg_is_in_recovery() AS false;
CREATE MACRO pg_backend_pid() AS 0::INTEGER;
CREATE MACRO pg_statistics_obj_is_visible(id) AS true;
CREATE MACRO pg_function_is_visible(id) AS true;
CREATE MACRO pg_get_function_result(id) AS
    (SELECT lower(f.result) FROM pg.functions f WHERE f.oid = id);
CREATE MACRO pg_get_function_arguments(id) AS (SELECT f.arguments FROM pg.functions f WHERE f.oid = id);
CREATE MACRO pg_get_function_identity_arguments(id) AS pg_get_function_arguments(id);
CREATE MACRO pg_advisory_unlock_all() AS NULL::VARCHAR;
CREATE MACRO pg_char_to_encoding(name) AS 6;
CREATE MACRO quote_ident(name) AS
    CASE WHEN regexp_full_match(name, '[a-z_][a-z0-9_]*') THEN name
    ELSE '"' || replace(name, '"', '""') || '"' END;
CREATE MACRO array_lower(list, dimension) AS 1;
CREATE MACRO array_upper(list, dimension) AS len(list);
CREATE MACRO _pg_expandarray(list) AS {'x': NULL::BIGINT, 'n': NULL::BIGINT};

-- The text of a type, with what its typmod says.
CREATE MACRO pg_format_type(id, typmod) AS (
    SELECT CASE WHEN t.oid = id THEN t.sql_name ELSE t.sql_name || '[]' END
        || CASE WHEN id = 1700 AND typmod > 4
            THEN '(' || ((typmod - 4) // 65536) || ',' || ((typmod - 4) % 65536) || ')' ELSE '' END
    FROM pg.types t WHERE t.oid = id OR t.typarray = id LIMIT 1
);

-- 'flor'::regclass, '16385'::regclass
CREATE MACRO pg_regclass(what) AS coalesce(
    try_cast(what AS BIGINT),
    (SELECT c.oid FROM pg.pg_class c
        WHERE c.relname = replace(regexp_replace(what::VARCHAR, '^"?main"?\.', ''), '"', ''))
);
-- oid::regclass::text
CREATE MACRO pg_class_name(id) AS (SELECT c.relname FROM pg.pg_class c WHERE c.oid = id::BIGINT);
CREATE MACRO pg_regtype(what) AS coalesce(
    try_cast(what AS BIGINT),
    (SELECT t.oid FROM pg.types t WHERE what::VARCHAR IN (t.typname, t.sql_name) LIMIT 1)
);

CREATE VIEW pg.information_schema_tables AS
SELECT 'flordb' AS table_catalog, 'main' AS table_schema, relname AS table_name,
    'BASE TABLE' AS table_type, NULL::VARCHAR AS self_referencing_column_name,
    NULL::VARCHAR AS reference_generation, NULL::VARCHAR AS user_defined_type_catalog,
    NULL::VARCHAR AS user_defined_type_schema, NULL::VARCHAR AS user_defined_type_name,
    'NO' AS is_insertable_into, 'NO' AS is_typed, NULL::VARCHAR AS commit_action
FROM pg.pg_class;
CREATE VIEW pg.information_schema_columns AS
SELECT 'flordb' AS table_catalog, 'main' AS table_schema, c.table_name, c.column_name,
    c.attnum::INTEGER AS ordinal_position, NULL::VARCHAR AS column_default, 'YES' AS is_nullable,
    CASE WHEN t.typelem > 0 THEN 'ARRAY' ELSE pg_format_type(t.oid, NULL) END AS data_type,
    NULL::INTEGER AS character_maximum_length, NULL::INTEGER AS character_octet_length,
    CASE t.typname WHEN 'int2' THEN 16 WHEN 'int4' THEN 32 WHEN 'int8' THEN 64 WHEN 'float4' THEN 24
        WHEN 'float8' THEN 53
        WHEN 'numeric' THEN CASE WHEN c.atttypmod > 4 THEN (c.atttypmod - 4) // 65536 END
        END::INTEGER AS numeric_precision,
    CASE WHEN t.typcategory = 'N' THEN CASE WHEN t.typname = 'numeric' THEN 10 ELSE 2 END
        END::INTEGER AS numeric_precision_radix,
    CASE WHEN t.typname LIKE 'int_' THEN 0
        WHEN c.atttypmod > 4 THEN (c.atttypmod - 4) % 65536 END::INTEGER AS numeric_scale,
    CASE WHEN t.typname IN ('timestamp', 'timestamptz', 'time', 'interval') THEN 6
        WHEN t.typname = 'date' THEN 0 END::INTEGER AS datetime_precision,
    NULL::VARCHAR AS interval_type, NULL::VARCHAR AS character_set_name,
    NULL::VARCHAR AS collation_name, NULL::VARCHAR AS domain_name, 'flordb' AS udt_catalog,
    'pg_catalog' AS udt_schema, t.typname AS udt_name, c.attnum::VARCHAR AS dtd_identifier,
    'NO' AS is_identity, 'NEVER' AS is_generated, NULL::VARCHAR AS generation_expression,
    'NO' AS is_updatable
FROM pg.columns c JOIN pg.pg_type t USING (typname);
CREATE VIEW pg.information_schema_schemata AS
SELECT 'flordb' AS catalog_name, nspname AS schema_name, 'flor' AS schema_owner,
    NULL::VARCHAR AS default_character_set_name, NULL::VARCHAR AS sql_path
FROM pg.pg_namespace;
CREATE VIEW pg.information_schema_views AS
SELECT '' AS table_catalog, '' AS table_schema, '' AS table_name, '' AS view_definition WHERE false;
