-- The tables of the database. It is derived from the run files: whatever is here can be built anew.
--
-- `logs` and `loops`, the tables of the dissertation's chapter 5, are views (flordb/store/layout.py)
-- over a table `flor_at_<nest>` for each nest of loops, and `odd_logs`. What is in them beside the
-- dissertation's columns is resolved when a run file is taken in, so that no query ever walks
-- `parent_ctx_id`:
--   nest_id     which nest of loops the context is in (table `nests`; 0 is outside all loops)
--   path        the ctx_ids of the context's ancestors from the outermost loop on, and its own
--   iterations  their iteration indexes
-- Contexts are numbered within their nest (flordb/store/blocks.py), and a ctx_id is that number with
-- the nest above its 40 lowest bits. It holds as long as its run file does not grow: whoever keeps
-- one must keep the run and the iterations instead.

CREATE TABLE meta (key VARCHAR PRIMARY KEY, value VARCHAR);

-- What has been taken in. `size` and `digest` are of the uncompressed text.
CREATE TABLE files (
    file_id INTEGER, file VARCHAR, kind VARCHAR, run_id INTEGER, rank INTEGER,
    disk_size BIGINT, mtime_ns BIGINT, blob VARCHAR, size BIGINT, digest VARCHAR
);

-- A row a run, or a row a rank of it. `last_seen`, `pid` and `pid_start` tell whether it is alive.
CREATE TABLE runs (
    run_id INTEGER, projid VARCHAR, tstamp TIMESTAMP, filename VARCHAR, rank INTEGER,
    world_size INTEGER, file VARCHAR, version VARCHAR, branch VARCHAR,
    started TIMESTAMP, ended TIMESTAMP, state VARCHAR, status INTEGER, error VARCHAR,
    argv JSON, cwd VARCHAR, host VARCHAR, "user" VARCHAR, python VARCHAR,
    packages JSON, hardware JSON, env JSON,
    pid BIGINT, pid_start VARCHAR, last_seen TIMESTAMP
);

-- Which numbers the contexts of a file have in their nests: `count` from `first` on.
CREATE TABLE blocks (file_id INTEGER, nest_id INTEGER, first BIGINT, count BIGINT);

-- Values that have no column in the table of their nest.
CREATE TABLE odd_logs (
    run_id INTEGER, rank INTEGER, name_id INTEGER, nest_id INTEGER, ctx_id BIGINT, ordinal BIGINT,
    value VARCHAR, value_type INTEGER, number DOUBLE, source VARCHAR, arg VARCHAR,
    path BIGINT[], iterations BIGINT[], file_id INTEGER
);

-- Of which type, and from which file, the values of one name in one nest of a run are that have a
-- column. `covers`: a bit a level of the nest, from the outermost on (not for its own): every context
-- that the run has there has such a value below it.
CREATE TABLE series (
    run_id INTEGER, rank INTEGER, name_id INTEGER, nest_id INTEGER, value_type INTEGER,
    arg VARCHAR, covers BIGINT, file_id INTEGER
);

-- Loop names around a log statement, from the outermost on.
CREATE TABLE nests (nest_id INTEGER, loops VARCHAR[]);

-- Each logged name. `column_name` is what it is called in `flor`: the name itself, unless another
-- column has that name already (SQL does not tell `Loss` from `loss`).
CREATE TABLE names (
    name_id INTEGER, name VARCHAR, type VARCHAR, nests VARCHAR[][], column_name VARCHAR
);

-- Which kinds of value (bits, see flordb/store/names.py) were logged where.
CREATE TABLE name_kinds (name_id INTEGER, nest_id INTEGER, bits INTEGER);

-- The same for the values of iterations, by the nest that the loop closes.
CREATE TABLE loop_kinds (nest_id INTEGER, bits INTEGER);

CREATE TABLE snapshots (
    run_id INTEGER, rank INTEGER, ctx_id BIGINT, "at" VARCHAR, seconds DOUBLE, bytes BIGINT,
    file_id INTEGER
);

CREATE TABLE timings (
    run_id INTEGER, rank INTEGER, what VARCHAR, ctx_id BIGINT, loop_name VARCHAR, entry BIGINT,
    iterations BIGINT, "end" VARCHAR, seconds DOUBLE, file_id INTEGER
);

-- What became of each attempt to acquire a column for a run; `tstamp_tried` is when, `flordb` by
-- which version of it.
CREATE TABLE acquisitions (
    run_id INTEGER, value_name VARCHAR, status VARCHAR, reason VARCHAR, statement VARCHAR,
    code VARCHAR, iterations BIGINT[], contexts JSON, seconds DOUBLE, scan VARCHAR,
    flordb VARCHAR, tstamp_tried TIMESTAMP, file_id INTEGER
);

CREATE TABLE replay_anomalies (
    projid VARCHAR, tstamp TIMESTAMP, filename VARCHAR, run_id INTEGER, value_name VARCHAR,
    context VARCHAR, ordinal BIGINT, recorded VARCHAR, replayed VARCHAR, file_id INTEGER
);

CREATE TABLE lineage (
    run_id INTEGER, read_projid VARCHAR, read_tstamp TIMESTAMP, read_filename VARCHAR,
    file_id INTEGER
);

CREATE TABLE problems (file VARCHAR, line BIGINT, reason VARCHAR);

-- What the pivot reads: a view finds its tables in its own database, so that a user's table `runs`
-- in the connection's own schema does not get in its way.
CREATE VIEW flor_runs AS SELECT * FROM runs;
CREATE VIEW flor_series AS SELECT * FROM series;
