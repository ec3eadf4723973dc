-- flor_pivot([...]): logged values as columns. The semantics of its rows is in docs/architecture.md.
--
-- DuckDB wants the columns of a table macro when it binds it, and admits no subquery there. So what
-- must be known about the names (types, nests, labels) stands in the constant flor_catalog(), which
-- every sync that finds something new defines again, and the macros below make the text of a query
-- from it, in the steps at the end of this file. Each step is a list_transform over the list that
-- the step before it made: binding takes twice as long with each lambda inside another, and a macro's
-- argument is copied to each place that uses it. `y['field']` stands for `y.field`, which the binder
-- of table functions takes for a column of a table.
--
-- The text: for the names that have a column in the table of a nest one scan, for each other (name,
-- nest) another; those of the same nest are joined on context and occurrence (p<nest>); from the deepest nest up, a nest's rows are joined with those of the nests
-- below it on the context that they share (r<nest>).

-- How SQL compares identifiers: ASCII letters without their case.
CREATE OR REPLACE MACRO flor_key(name) AS
    translate(name, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ', 'abcdefghijklmnopqrstuvwxyz');

CREATE OR REPLACE MACRO flor_quoted(name) AS '"' || replace(name, '"', '""') || '"';

-- The column that a name in the list means: a dimension, else the name exactly as it was logged,
-- else the column that SQL would take it for, else a column without values.
CREATE OR REPLACE MACRO flor_column(columns, asked, nth) AS coalesce(
    list_filter(columns, lambda e: e['kind'] <> 'name' AND e['key'] = flor_key(asked))[1],
    list_filter(columns, lambda e: e['kind'] = 'name' AND e['name'] = asked)[1],
    list_filter(columns, lambda e: e['key'] = flor_key(asked))[1],
    {'kind': 'none', 'id': nth::INTEGER, 'name': asked, 'key': flor_key(asked),
     'label': asked, 'alias': 'u' || nth, 'expr': '', 'column': '',
     'wide': []::INTEGER[], 'odd': []::INTEGER[],
     'nests': []::INTEGER[], 'over': []::INTEGER[], 'reach': []::INTEGER[]}
);

-- One scan: the values of a name in one nest that have no column there.
CREATE OR REPLACE MACRO flor_odd(nest, e) AS
    'SELECT ' || nest['scan'] || ', ordinal AS o, true AS m' || e['alias'] || ', ' || e['expr']
    || ' AS ' || e['alias'] || ' FROM flor_odd_logs WHERE name_id = ' || e['id']
    || ' AND nest_id = ' || nest['id'];

-- The columns of names, and the iterations of loops, in the table of their nest: all in one scan.
-- `marked`: whether it must be said which of them a row has.
CREATE OR REPLACE MACRO flor_wide(nest, several, marked) AS
    'SELECT ' || nest['columns'] || ', ordinal AS o' || array_to_string(list_transform(several,
        lambda e: CASE WHEN NOT marked THEN ''
            WHEN e['kind'] = 'loop' THEN ', ordinal = 0 AS m' || e['alias']
            ELSE ', n' || e['id'] || ' IS NOT NULL AS m' || e['alias'] END
            || CASE WHEN e['kind'] = 'loop' THEN ''
            ELSE ', ' || e['column'] || ' AS ' || e['alias'] END), '')
    || ' FROM flor_at_' || nest['id'] || CASE
        WHEN len(list_filter(several, lambda e: e['kind'] = 'loop')) > 0 THEN ' WHERE ordinal = 0 OR '
        ELSE ' WHERE ' END
    || 'coalesce(' || array_to_string(list_transform(several,
        lambda e: CASE WHEN e['kind'] = 'loop' THEN 'NULL' ELSE 'n' || e['id'] END), ', ')
    || ') IS NOT NULL';

-- The column of a name whose values are texts elsewhere.
CREATE OR REPLACE MACRO flor_mixed(nest, e) AS
    'SELECT ' || nest['columns'] || ', ordinal AS o, true AS m' || e['alias'] || ', ' || e['expr']
    || ' AS ' || e['alias'] || ' FROM (SELECT t.*, CASE s.value_type WHEN 1 THEN CASE WHEN n'
    || e['id'] || ' <> 0 THEN ''true'' ELSE ''false'' END WHEN 2 THEN n' || e['id']
    || '::BIGINT::VARCHAR ELSE n' || e['id'] || '::VARCHAR END AS value FROM (SELECT * '
    || 'EXCLUDE (value) FROM flor_at_' || nest['id'] || ') t JOIN flor_series s '
    || 'USING (run_id, rank) WHERE s.name_id = ' || e['id'] || ' AND s.nest_id = ' || nest['id']
    || ' AND n' || e['id'] || ' IS NOT NULL)';

-- Whether a name's values in a nest are nothing but its column.
CREATE OR REPLACE MACRO flor_is_wide(nest, e) AS
    e['kind'] = 'loop' OR (NOT list_contains(e['odd'], nest['id']) AND e['column'] <> '');

-- One scan of a name that is more than its column, or that has none.
CREATE OR REPLACE MACRO flor_scan(nest, e) AS
    CASE WHEN list_contains(e['wide'], nest['id']) THEN
        CASE WHEN e['column'] = '' THEN flor_mixed(nest, e) ELSE flor_wide(nest, [e], true) END
        || CASE WHEN list_contains(e['odd'], nest['id']) THEN ' UNION ALL BY NAME ' ELSE '' END
    ELSE '' END
    || CASE WHEN list_contains(e['odd'], nest['id']) THEN flor_odd(nest, e) ELSE '' END;

-- Many names that are not in columns: DuckDB leaves out the aggregates that a query does not read.
CREATE OR REPLACE MACRO flor_grouped(nest, several) AS
    'SELECT ' || nest['regroup'] || ', o' || array_to_string(list_transform(several, lambda e:
        ', bool_or(name_id = ' || e['id'] || ') AS m' || e['alias'] || ', any_value(' || e['expr']
        || ') FILTER (WHERE name_id = ' || e['id'] || ') AS ' || e['alias']), '')
    || ' FROM (SELECT ' || nest['scan'] || ', ordinal AS o, name_id, value, number '
    || 'FROM flor_logs WHERE nest_id = ' || nest['id'] || ' AND name_id IN ('
    || array_to_string(list_transform(several, lambda e: e['id']), ', ')
    || ')) GROUP BY ' || nest['key'] || ', o';

-- All scans for the columns of a nest. With many that have no column in its table there would be
-- too many joins to plan: these are taken together, with an aggregate each.
CREATE OR REPLACE MACRO flor_scans(nest, wide, other, marked) AS
    list_concat(
        CASE WHEN len(wide) > 0 THEN [flor_wide(nest, wide, marked OR len(other) > 0)]
        ELSE [] END,
        CASE WHEN len(other) > 12 THEN [flor_grouped(nest, other)]
        ELSE list_transform(other, lambda e: flor_scan(nest, e)) END);

-- coalesce() of one column of the scans t1, t2, ...
CREATE OR REPLACE MACRO flor_first(count, name) AS
    CASE WHEN count = 1 THEN 't1.' || name
    ELSE 'coalesce(' || array_to_string(
        list_transform(range(1, count + 1), lambda i: 't' || i || '.' || name), ', '
    ) || ') AS ' || name END;

-- Whether a row of names side by side has a value of one of these.
CREATE OR REPLACE MACRO flor_marks(here) AS
    '(' || array_to_string(list_transform(here, lambda e: 'm' || e['alias'] || ' OR '), '')
    || 'false) IS TRUE';

-- The names of one nest side by side, by full joins of their scans.
CREATE OR REPLACE MACRO flor_joined(nest, here, scans) AS
    CASE WHEN len(scans) = 1 THEN scans[1] ELSE
    'SELECT ' || array_to_string(list_transform(
        list_append(nest['dims'], 'o'), lambda d: flor_first(len(scans), d)), ', ')
    || array_to_string(list_transform(here, lambda e: ', m' || e['alias']
        || CASE WHEN e['kind'] = 'loop' THEN '' ELSE ', ' || e['alias'] END), '')
    || ' FROM ' || array_to_string(list_transform(scans, lambda scan, i:
        CASE WHEN i = 1 THEN '' ELSE ' FULL JOIN ' END || '(' || scan || ') t' || i
        || CASE WHEN i = 1 THEN '' ELSE ' USING (' || nest['key'] || ', o)' END), '') END;

CREATE OR REPLACE MACRO flor_values(here) AS
    array_to_string(list_transform(
        list_filter(here, lambda e: e['kind'] <> 'loop'),
        lambda e: ', p.' || e['alias']), '');

-- The rows of a nest without nests below it.
CREATE OR REPLACE MACRO flor_leaf(nest, here, side) AS
    'r' || nest['id'] || ' AS NOT MATERIALIZED (SELECT ' || array_to_string(nest['dims'], ', ')
    || flor_values(here) || ' FROM (' || side || ') p)';

-- The rows of a nest with nests below it: a value repeats on the rows of the contexts below.
CREATE OR REPLACE MACRO flor_inner(nest, here, side) AS
    'r' || nest['id'] || ' AS NOT MATERIALIZED (SELECT '
    || array_to_string(list_transform(nest['dims'], lambda d:
        'coalesce(u.' || d || ', p.' || d || ') AS ' || d), ', ')
    || ', u.* EXCLUDE (' || array_to_string(nest['dims'], ', ') || ')' || flor_values(here)
    || ' FROM (' || side || ') p FULL JOIN u' || nest['id'] || ' u USING ('
    || nest['key'] || '))';

-- The runs in which one of these has a value inside a loop.
CREATE OR REPLACE MACRO flor_runs_with(below) AS
    array_to_string(list_transform(below, lambda e:
        CASE WHEN e['kind'] = 'loop' THEN array_to_string(list_transform(e['nests'], lambda n:
            'SELECT run_id, rank FROM flor_at_' || n), ' UNION ALL ')
        ELSE 'SELECT run_id, rank FROM flor_series WHERE nest_id <> 0 AND name_id = ' || e['id']
            || ' UNION ALL SELECT run_id, rank FROM flor_odd_logs WHERE nest_id <> 0 AND name_id = '
            || e['id'] END), ' UNION ALL ');

-- The same outside all loops, where no full join is needed: an inner join with the few runs is the
-- fastest there is, and which runs have no row below is known without looking at the rows. These
-- rows have the dimensions of their runs already.
CREATE OR REPLACE MACRO flor_outermost(nest, here, below, side) AS
    'r0 AS NOT MATERIALIZED (SELECT p.projid, p.tstamp, p.filename, u.*' || flor_values(here)
    || ' FROM (SELECT s.projid, s.tstamp, s.filename, s.run_id, s.rank' || flor_values(here)
    || ' FROM flor_runs s LEFT JOIN (' || side || ') p USING (' || nest['key']
    || ')) p JOIN u0 u USING (' || nest['key']
    || ') UNION ALL BY NAME SELECT s.projid, s.tstamp, s.filename, '
    || array_to_string(list_transform(nest['dims'], lambda d: 'p.' || d), ', ')
    || flor_values(here) || ' FROM (' || side || ') p JOIN flor_runs s USING (' || nest['key']
    || ') WHERE NOT EXISTS (FROM (' || flor_runs_with(below) || ') b WHERE '
    || array_to_string(list_transform(nest['keys'], lambda k: 'b.' || k || ' = p.' || k), ' AND ')
    || '))';

CREATE OR REPLACE MACRO flor_is_outermost(nest, below, lower, here) AS
    nest['id'] = 0 AND len(below) > 0 AND len(lower) = 0 AND len(here) > 0;

-- The same where `lower`, some of its names, have values further below too: these do not repeat
-- there but stand on rows of their own, beside the names that share their context and occurrence.
CREATE OR REPLACE MACRO flor_split(nest, upper, lower, here, side) AS
    'p' || nest['id'] || ' AS MATERIALIZED (' || side || '), '
    || 'r' || nest['id'] || ' AS NOT MATERIALIZED (SELECT u.*' || flor_values(upper)
    || ' FROM u' || nest['id'] || ' u LEFT JOIN (FROM p' || nest['id'] || ' WHERE '
    || flor_marks(upper) || ') p USING (' || nest['key'] || ') UNION ALL BY NAME SELECT '
    || array_to_string(list_transform(nest['dims'], lambda d: 'p.' || d), ', ')
    || flor_values(here) || ' FROM p' || nest['id'] || ' p WHERE ' || flor_marks(lower)
    || ' OR NOT EXISTS (FROM u' || nest['id'] || ' u WHERE '
    || array_to_string(list_transform(nest['keys'], lambda k: 'u.' || k || ' = p.' || k), ' AND ')
    || '))';

-- u<nest>: the rows of the nests below, under each other.
CREATE OR REPLACE MACRO flor_below(nest, below, twice) AS
    'u' || nest['id'] || CASE WHEN twice THEN ' AS MATERIALIZED (' ELSE ' AS NOT MATERIALIZED (' END
    || array_to_string(list_transform(below, lambda b: 'FROM r' || b['id']), ' UNION ALL BY NAME ')
    || '), ';

CREATE OR REPLACE MACRO flor_level(nest, below, upper, lower, here, inside, side) AS
    CASE WHEN len(below) = 0 THEN flor_leaf(nest, here, side)
    ELSE flor_below(nest, below, len(lower) > 0)
        || CASE WHEN len(here) = 0 THEN
            'r' || nest['id'] || ' AS NOT MATERIALIZED (FROM u' || nest['id'] || ')'
        WHEN flor_is_outermost(nest, below, lower, here)
            THEN flor_outermost(nest, here, inside, side)
        WHEN len(lower) = 0 THEN flor_inner(nest, here, side)
        ELSE flor_split(nest, upper, lower, here, side) END
    END;

-- The relation for columns with values somewhere; `parts` are those of WITH, and `named` says
-- whether the rows have the dimensions of their runs.
CREATE OR REPLACE MACRO flor_rows(ranked, parts, named, loops, columns) AS
    'WITH ' || array_to_string(parts, ', ') || ' SELECT projid, tstamp, filename'
    || CASE WHEN ranked THEN ', r.rank' ELSE '' END
    || array_to_string(list_transform(loops, lambda l:
        ', r.l' || l['id'] || ' AS ' || flor_quoted(l['label']) || ', ' || l['value'] || ' AS '
        || flor_quoted(l['value_label'])), '')
    || array_to_string(list_transform(
        list_filter(columns, lambda e: e['kind'] <> 'loop'), lambda e: ', '
        || CASE WHEN e['kind'] = 'none' THEN 'NULL::DOUBLE' ELSE 'r.' || e['alias'] END
        || ' AS ' || flor_quoted(e['label'])), '')
    || ' FROM r0 r' || CASE WHEN named THEN '' ELSE ' JOIN flor_runs s USING (run_id'
        || CASE WHEN ranked THEN ', rank' ELSE '' END || ')' END
    || array_to_string(list_transform(loops, lambda l: l['join']), '');

-- The relation for columns without any value: a row a run if no column was asked for, else none.
CREATE OR REPLACE MACRO flor_bare(ranked, columns) AS
    'SELECT projid, tstamp, filename' || CASE WHEN ranked THEN ', min(rank) AS rank' ELSE '' END
    || array_to_string(list_transform(
        list_filter(columns, lambda e: e['kind'] <> 'loop'),
        lambda e: ', NULL::DOUBLE AS ' || flor_quoted(e['label'])), '')
    || ' FROM flor_runs ' || CASE WHEN len(columns) > 0 THEN 'WHERE false' ELSE '' END
    || CASE WHEN ranked THEN ' GROUP BY run_id, projid, tstamp, filename' ELSE '' END;

-- Step 1: what each name in the list means.
CREATE OR REPLACE MACRO flor_meant(catalogs, asked) AS
    list_transform(catalogs, lambda c: {
        'ranked': c['ranked'], 'nests': c['nests'], 'loops': c['loops'],
        'columns': CASE WHEN asked IS NULL
            THEN list_filter(c['columns'], lambda e: e['kind'] = 'name')
            ELSE list_transform(
                list_filter(asked, lambda a: a IS NOT NULL),
                lambda a, i: flor_column(c['columns'], a, i)) END
    });

-- Step 2: no dimension columns, and each column once (all names are distinct as they are).
CREATE OR REPLACE MACRO flor_distinct(states, asked) AS
    list_transform(states, lambda s: {
        'ranked': s['ranked'], 'nests': s['nests'], 'loops': s['loops'],
        'columns': CASE WHEN asked IS NULL THEN s['columns']
            ELSE list_filter(s['columns'], lambda e, i: e['kind'] <> 'dim' AND list_position(
                list_transform(s['columns'], lambda f: f['kind'] || f['label']),
                e['kind'] || e['label']) = i) END
    });

-- Step 3: the nests and loops that are involved.
CREATE OR REPLACE MACRO flor_involved(states) AS
    list_transform(
        list_transform(states, lambda s: {
            'all': s,
            'reach': list_distinct(flatten(list_transform(s['columns'], lambda e: e['reach'])))
        }),
        lambda s: {
            'ranked': s['all']['ranked'],
            'nests': list_filter(s['all']['nests'], lambda n: list_contains(s['reach'], n['id'])),
            'loops': list_filter(s['all']['loops'], lambda l: list_has_any(s['reach'], l['nests'])),
            'columns': s['all']['columns']
        });

-- Step 4: for each nest the nests just below it and the columns that have values in it.
CREATE OR REPLACE MACRO flor_levels(states) AS
    list_transform(states, lambda s: {
        'ranked': s['ranked'], 'loops': s['loops'], 'columns': s['columns'],
        'levels': list_transform(s['nests'], lambda n: {
            'nest': n,
            'below': list_filter(s['nests'], lambda b: b['parent'] = n['id']),
            'here': list_filter(s['columns'], lambda e: list_contains(e['nests'], n['id']))
        })
    });

-- Step 5: the scans of these columns.
CREATE OR REPLACE MACRO flor_sides(states) AS
    list_transform(states, lambda s: {
        'ranked': s['ranked'], 'loops': s['loops'], 'columns': s['columns'],
        'levels': list_transform(s['levels'], lambda l: {
            'nest': l['nest'], 'below': l['below'], 'here': l['here'],
            'upper': list_filter(
                l['here'], lambda e: NOT list_contains(e['over'], l['nest']['id'])),
            'lower': list_filter(l['here'], lambda e: list_contains(e['over'], l['nest']['id'])),
            'scans': flor_scans(l['nest'],
                list_filter(l['here'], lambda e: flor_is_wide(l['nest'], e)),
                list_filter(l['here'], lambda e: NOT flor_is_wide(l['nest'], e)),
                len(list_filter(l['here'], lambda e: list_contains(e['over'], l['nest']['id']))) > 0)
        })
    });

-- Step 6: the rows of each nest.
CREATE OR REPLACE MACRO flor_parts(states) AS
    list_transform(states, lambda s: {
        'ranked': s['ranked'], 'loops': s['loops'], 'columns': s['columns'],
        'named': len(list_filter(s['levels'], lambda l:
            flor_is_outermost(l['nest'], l['below'], l['lower'], l['here']))) > 0,
        'parts': list_transform(s['levels'], lambda l: flor_level(
            l['nest'], l['below'], l['upper'], l['lower'], l['here'],
            list_filter(s['columns'], lambda e: len(e['reach']) > 1),
            flor_joined(l['nest'], l['here'], l['scans'])))
    });

-- Step 7: the query for a list of names, NULL for all.
CREATE OR REPLACE MACRO flor_pivot_sql(names) AS
    list_transform(
        flor_parts(flor_sides(flor_levels(flor_involved(flor_distinct(
            flor_meant([flor_catalog()], names::VARCHAR[]), names::VARCHAR[]))))),
        lambda s: CASE WHEN len(s['parts']) = 0 THEN flor_bare(s['ranked'], s['columns'])
            ELSE flor_rows(s['ranked'], s['parts'], s['named'], s['loops'], s['columns']) END
    )[1];

CREATE OR REPLACE MACRO flor_pivot(names) AS TABLE FROM query(flor_pivot_sql(names));
