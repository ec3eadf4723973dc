-- flor_pivot([...]): logged values as columns. The semantics of its rows is in docs/architecture.md.
--
-- DuckDB wants the columns of a table macro when it binds it, and admits no subquery there. So what
-- must be known about the names (types, nests, labels) stands in the constant flor_catalog(), which
-- every sync that finds something new defines again, and the macros below make the text of a query
-- from it, in the steps at the end of this file. Each step is a list_transform over the list that
-- the step before it made: binding takes twice as long with each lambda inside another, and a macro's
-- argument is copied to each place that uses it, so the arguments are fields of what a step before
-- has made. `y['field']` stands for `y.field`, which the binder of table functions takes for a column
-- of a table.
--
-- The text puts the rows of the nests that are involved under each other (flor_entries), each joined
-- to what repeats on it, with these parts of WITH. A part that only one place refers to is no part of
-- WITH but stands there: DuckDB takes long to put it there itself.
--   p<nest>  the names of a nest side by side, a row a context and occurrence: one scan for those that
--            have a column in the nest's table, one more for each other, by full joins
--   a<nest>  all contexts of a nest with the values of its names, those of the nests around it and
--            the dimensions of their runs: what repeats on the rows below
--   x<nest>  the runs where a context of the nest may have no rows below it
-- A join finds what repeats by the small numbers that contexts have, which DuckDB looks up in an
-- array.

-- How SQL compares identifiers: ASCII letters without their case.
CREATE OR REPLACE MACRO flor_key(name) AS
    translate(name, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ', 'abcdefghijklmnopqrstuvwxyz');

CREATE OR REPLACE MACRO flor_quoted(name) AS concat('"', replace(name, '"', '""'), '"');

-- The column that a name in the list means: a dimension, else the name exactly as it was logged,
-- else the column that SQL would take it for, else a column without values.
CREATE OR REPLACE MACRO flor_column(columns, asked, nth) AS coalesce(
    list_filter(columns, lambda e: e['kind'] <> 'name' AND e['key'] = flor_key(asked))[1],
    list_filter(columns, lambda e: e['kind'] = 'name' AND e['name'] = asked)[1],
    list_filter(columns, lambda e: e['key'] = flor_key(asked))[1],
    {'kind': 'none', 'id': nth::INTEGER, 'name': asked, 'key': flor_key(asked),
     'label': asked, 'alias': concat('u', nth), 'expr': '', 'column': '',
     'wide': []::INTEGER[], 'odd': []::INTEGER[],
     'nests': []::INTEGER[], 'over': []::INTEGER[], 'reach': []::INTEGER[]}
);

-- Many names that are not in columns, taken together: there would be too many joins to plan.
CREATE OR REPLACE MACRO flor_many() AS 12;

-- One scan: the values of a name in one nest that have no column there.
CREATE OR REPLACE MACRO flor_odd(nest, e) AS
    concat('SELECT ', nest['scan'], ', ordinal AS o, true AS m', e['alias'], ', ', e['expr'],
    ' AS ', e['alias'], ' FROM flor_odd_logs WHERE name_id = ', e['id'],
    ' AND nest_id = ', nest['id']);

-- The condition that a row of a nest's table has a value of one of these. Of one column DuckDB knows
-- whether it has NULLs at all.
CREATE OR REPLACE MACRO flor_has_value(several) AS
    concat(CASE WHEN len(several) = 1 THEN '' ELSE 'coalesce(' END,
    array_to_string(list_transform(several,
        lambda e: CASE WHEN e['kind'] = 'loop' THEN 'NULL' ELSE concat('n', e['id']) END), ', '),
    CASE WHEN len(several) = 1 THEN '' ELSE ')' END, ' IS NOT NULL');

CREATE OR REPLACE MACRO flor_own_columns(several) AS
    array_to_string(list_transform(several, lambda e: CASE WHEN e['kind'] = 'loop' THEN ''
        ELSE concat(', ', e['column'], ' AS ', e['alias']) END), '');

-- The columns of names, and the iterations of loops, in the table of their nest: all in one scan.
-- `marked`: whether it must be said which of them a row has.
CREATE OR REPLACE MACRO flor_wide(nest, several, marked) AS
    concat('SELECT ', nest['columns'], ', ', nest['ordinal'], ' AS o', flor_own_columns(several),
    CASE WHEN marked THEN array_to_string(list_transform(several,
        lambda e: concat(
            CASE WHEN e['kind'] = 'loop' THEN concat(', ', nest['ordinal'], ' = 0 AS m')
            ELSE concat(', n', e['id'], ' IS NOT NULL AS m') END, e['alias'])), '') ELSE '' END,
    ' FROM flor_at_', nest['id'], ' WHERE ',
    CASE WHEN len(list_filter(several, lambda e: e['kind'] = 'loop')) > 0
        THEN concat(nest['ordinal'], ' = 0 OR ') ELSE '' END,
    flor_has_value(several));

-- The column of a name whose values are texts elsewhere.
CREATE OR REPLACE MACRO flor_mixed(nest, e) AS
    concat('SELECT * EXCLUDE (value), true AS m', e['alias'], ', ', e['expr'], ' AS ', e['alias'],
    ' FROM (SELECT ', nest['columns'], ', ', nest['ordinal'], ' AS o, CASE s.value_type ',
    'WHEN 1 THEN CASE WHEN n', e['id'], ' <> 0 THEN ''true'' ELSE ''false'' END WHEN 2 THEN n',
    e['id'], '::BIGINT::VARCHAR ELSE n', e['id'], '::VARCHAR END AS value FROM flor_at_',
    nest['id'], ' t JOIN flor_series s USING (', nest['run'], ') WHERE s.name_id = ',
    e['id'], ' AND s.nest_id = ', nest['id'], ' AND n', e['id'], ' IS NOT NULL)');

-- Whether a name's values in a nest are nothing but its column.
CREATE OR REPLACE MACRO flor_is_wide(nest, e) AS
    e['kind'] = 'loop' OR (NOT list_contains(e['odd'], nest['id']) AND e['column'] <> '');

-- One scan of a name that is more than its column, or that has none.
CREATE OR REPLACE MACRO flor_scan(nest, e) AS
    concat(CASE WHEN list_contains(e['wide'], nest['id']) THEN
        concat(
        CASE WHEN e['column'] = '' THEN flor_mixed(nest, e) ELSE flor_wide(nest, [e], true) END,
        CASE WHEN list_contains(e['odd'], nest['id']) THEN ' UNION ALL BY NAME ' ELSE '' END)
    ELSE '' END,
    CASE WHEN list_contains(e['odd'], nest['id']) THEN flor_odd(nest, e) ELSE '' END);

-- Many names that are not in columns: DuckDB leaves out the aggregates that a query does not read.
CREATE OR REPLACE MACRO flor_grouped(nest, several) AS
    concat('SELECT ', nest['regroup'], ', o', array_to_string(list_transform(several, lambda e:
        concat(', bool_or(name_id = ', e['id'], ') AS m', e['alias'], ', any_value(', e['expr'],
        ') FILTER (WHERE name_id = ', e['id'], ') AS ', e['alias'])), ''),
    ' FROM (SELECT ', nest['scan'], ', ordinal AS o, name_id, value, number ',
    'FROM flor_logs WHERE nest_id = ', nest['id'], ' AND name_id IN (',
    array_to_string(list_transform(several, lambda e: e['id']), ', '),
    ')) GROUP BY ', nest['key'], ', o');

-- All scans for the columns of a nest.
CREATE OR REPLACE MACRO flor_scans(nest, wide, other, marked) AS
    list_concat(
        CASE WHEN len(wide) > 0 THEN [flor_wide(nest, wide, marked OR len(other) > 0)]
        ELSE [] END,
        CASE WHEN len(other) > flor_many() THEN [flor_grouped(nest, other)]
        ELSE list_transform(other, lambda e: flor_scan(nest, e)) END);

-- coalesce() of one column of the scans t1, t2, ...
CREATE OR REPLACE MACRO flor_first(count, name) AS
    concat('coalesce(', array_to_string(
        list_transform(range(1, count + 1), lambda i: concat('t', i, '.', name)), ', '
    ), ') AS ', name);

-- The names of one nest side by side, by full joins of their scans.
CREATE OR REPLACE MACRO flor_joined(nest, here, scans) AS
    CASE WHEN len(scans) = 1 THEN scans[1] ELSE
    concat('SELECT ', array_to_string(list_transform(
        list_append(nest['dims'], 'o'), lambda d: flor_first(len(scans), d)), ', '),
    array_to_string(list_transform(here, lambda e: concat(', m', e['alias'],
        CASE WHEN e['kind'] = 'loop' THEN '' ELSE concat(', ', e['alias']) END)), ''),
    ' FROM ', array_to_string(list_transform(scans, lambda scan, i:
        concat(CASE WHEN i = 1 THEN '' ELSE ' FULL JOIN ' END, '(', scan, ') t', i,
        CASE WHEN i = 1 THEN '' ELSE concat(' USING (', nest['key'], ', o)') END)), '')) END;

-- Whether a row of names side by side has a value of one of these.
CREATE OR REPLACE MACRO flor_marks(several) AS
    concat(
    '(', array_to_string(list_transform(several, lambda e: concat('m', e['alias'], ' OR ')), ''),
    'false) IS TRUE');

CREATE OR REPLACE MACRO flor_values(prefix, several) AS
    array_to_string(list_transform(several, lambda e: concat(', ', prefix, e['alias'])), '');

-- What repeats on the rows of a nest, from the relation `a`.
CREATE OR REPLACE MACRO flor_repeated(rank, carried) AS
    concat('SELECT a.projid, a.tstamp, a.filename', rank, flor_values('a.', carried));

-- p<nest>, of which a row may have values of some names only (`upper`).
CREATE OR REPLACE MACRO flor_upper(l) AS
    concat('FROM p', l['nest']['id'], CASE WHEN len(l['lower']) = 0 THEN ''
        ELSE concat(' WHERE ', flor_marks(l['upper'])) END);

-- a<nest>
CREATE OR REPLACE MACRO flor_above(l, rank) AS
    concat('a', l['nest']['id'], ' AS NOT MATERIALIZED (',
    CASE WHEN l['nest']['id'] = 0 THEN
        concat(
        'SELECT a.projid, a.tstamp, a.filename, a.run_id', rank, flor_values('p.', l['upper']),
        ' FROM flor_runs a', CASE WHEN len(l['upper']) = 0 THEN '' ELSE
            concat(' LEFT JOIN (', flor_upper(l), ') p USING (', l['nest']['run'], ')') END)
    ELSE
        concat(flor_repeated(rank, l['carried']), ', p.', l['nest']['key'],
        flor_values('p.', l['upper']), ' FROM (',
        CASE WHEN l['simple'] THEN concat('SELECT ', l['nest']['columns'],
            flor_own_columns(l['upper']), ' FROM flor_at_', l['nest']['id'],
            CASE WHEN l['nest']['ordinal'] = '0' THEN ''
                ELSE concat(' WHERE ordinal = 0 OR ', flor_has_value(l['upper'])) END)
        ELSE concat('FROM (SELECT ', l['nest']['columns'], ' FROM flor_at_', l['nest']['id'],
            CASE WHEN l['nest']['ordinal'] = '0' THEN '' ELSE ' WHERE ordinal = 0' END,
            ') LEFT JOIN (SELECT ', l['nest']['key'], flor_values('', l['upper']), ' ',
            flor_upper(l), ') USING (', l['nest']['key'], ')') END,
        ') p JOIN a', l['from']['id'], ' a USING (', l['from']['key'], ')')
    END, ')');

-- x<nest>
CREATE OR REPLACE MACRO flor_uncovered(l) AS
    concat('x', l['nest']['id'], ' AS NOT MATERIALIZED (SELECT ', l['nest']['run'],
    ' FROM flor_runs ANTI JOIN (SELECT run_id, rank FROM flor_series WHERE covers & ',
    l['nest']['bit'], ' <> 0 AND nest_id IN (',
    array_to_string(list_transform(l['below'], lambda b: b['nest']['id']), ', '),
    ') AND name_id IN (',
    array_to_string(list_transform(l['inside'], lambda e: e['id']), ', '),
    ')) USING (run_id, rank))');

-- The runs in which one of these has a value inside a loop.
CREATE OR REPLACE MACRO flor_runs_with(run, loops, ids) AS
    array_to_string(list_concat(
        list_transform(loops, lambda n: concat('SELECT ', run, ' FROM flor_at_', n)),
        CASE WHEN ids = '' THEN [] ELSE list_transform(['flor_series', 'flor_odd_logs'], lambda t:
            concat('SELECT ', run, ' FROM ', t, ' WHERE nest_id <> 0 AND name_id IN (', ids, ')'))
        END), ' UNION ALL ');

-- The rows of p<nest> that have no rows below them.
CREATE OR REPLACE MACRO flor_alone(l) AS
    concat('FROM (FROM p', l['nest']['id'], CASE WHEN len(l['lower']) = 0 THEN ''
        ELSE concat(' WHERE NOT ', flor_marks(l['lower'])) END, ')',
    CASE WHEN l['nest']['id'] = 0 THEN
        concat(' ANTI JOIN (', flor_runs_with(l['nest']['run'], l['loops'], l['ids']), ') USING (',
        l['nest']['run'], ')')
    ELSE concat(' SEMI JOIN x', l['nest']['id'], ' USING (', l['nest']['run'], ') ANTI JOIN (',
        array_to_string(list_transform(l['below'], lambda b: concat('SELECT ', l['nest']['key'],
            ' FROM p', b['nest']['id'], ' SEMI JOIN x', l['nest']['id'], ' USING (',
            l['nest']['run'], ')')), ' UNION ALL '),
        ') USING (', l['nest']['key'], ')') END);

-- The rows of a nest: those of p, but where other nests are below it only those without rows there. A
-- name with values further below, too, (`lower`) does not repeat there: where it is, there is a row
-- of its own, with the names that share its context and occurrence.
CREATE OR REPLACE MACRO flor_entries(l, rank) AS
    concat('(', flor_repeated(rank, l['carried']),
    array_to_string(list_transform(l['nest']['labels'], lambda d: concat(', p.', d)), ''),
    flor_values('p.', l['shown']), ' FROM ',
    CASE WHEN len(l['below']) = 0 THEN concat('p', l['nest']['id'])
    ELSE concat('(', CASE WHEN len(l['lower']) = 0 THEN ''
        ELSE concat('FROM p', l['nest']['id'], ' WHERE ', flor_marks(l['lower']), ' UNION ALL ')
        END,
        flor_alone(l), ')') END,
    ' p JOIN ',
    CASE WHEN l['nest']['id'] = 0 THEN 'flor_runs' ELSE concat('a', l['from']['id']) END,
    ' a USING (', l['from']['key'], '))');

-- The relation for columns with values somewhere.
CREATE OR REPLACE MACRO flor_rows(s) AS
    concat('WITH ', array_to_string(s['parts'], ', '), ' SELECT projid, tstamp, filename',
    CASE WHEN s['ranked'] THEN ', r.rank' ELSE '' END,
    array_to_string(list_transform(s['loops'], lambda l:
        concat(', r.l', l['id'], ' AS ', flor_quoted(l['label']), ', ', l['value'], ' AS ',
        flor_quoted(l['value_label']))), ''),
    array_to_string(list_transform(
        list_filter(s['columns'], lambda e: e['kind'] <> 'loop'), lambda e: concat(', ',
        CASE WHEN e['kind'] = 'none' THEN 'NULL::DOUBLE' ELSE concat('r.', e['alias']) END,
        ' AS ', flor_quoted(e['label']))), ''),
    ' FROM ', s['rows'], ' r',
    array_to_string(list_transform(s['loops'], lambda l: l['join']), ''));

-- The relation for columns with values outside all loops only, each in the nest's table, where every
-- row has a value of some name. Thousands of hyper-parameters are a matter of how often the binder
-- sees them: here, once.
CREATE OR REPLACE MACRO flor_flat(s) AS
    concat('SELECT a.projid, a.tstamp, a.filename', s['rank'],
    array_to_string(list_transform(s['columns'], lambda e: concat(', ',
        CASE WHEN e['kind'] = 'none' THEN 'NULL::DOUBLE' ELSE e['column'] END,
        ' AS ', flor_quoted(e['label']))), ''),
    ' FROM flor_at_0 JOIN flor_runs a USING (', s['flat'][1]['nest']['run'], ')',
    CASE WHEN len(s['flat'][1]['upper']) = s['flat'][1]['nest']['width'] THEN ''
        ELSE concat(' WHERE ', flor_has_value(s['flat'][1]['upper'])) END);

-- The relation for columns without any value: a row a run if no column was asked for, else none.
CREATE OR REPLACE MACRO flor_bare(s) AS
    concat('SELECT projid, tstamp, filename',
    CASE WHEN s['ranked'] THEN ', min(rank) AS rank' ELSE '' END,
    array_to_string(list_transform(
        list_filter(s['columns'], lambda e: e['kind'] <> 'loop'),
        lambda e: concat(', NULL::DOUBLE AS ', flor_quoted(e['label']))), ''),
    ' FROM flor_runs ', CASE WHEN len(s['columns']) > 0 THEN 'WHERE false' ELSE '' END,
    CASE WHEN s['ranked'] THEN ' GROUP BY run_id, projid, tstamp, filename' ELSE '' END);

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
                list_transform(s['columns'], lambda f: concat(f['kind'], f['label'])),
                concat(e['kind'], e['label'])) = i) END
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

-- Step 4: for each nest the columns that have values in it.
CREATE OR REPLACE MACRO flor_levels(states) AS
    list_transform(states, lambda s: {
        'ranked': s['ranked'], 'loops': s['loops'], 'columns': s['columns'],
        'levels': list_transform(s['nests'], lambda n: {
            'nest': n,
            'here': list_filter(s['columns'], lambda e: list_contains(e['nests'], n['id']))
        })
    });

-- Step 5: of these, the names whose values repeat below the nest and those that have values there,
-- and how each is read.
CREATE OR REPLACE MACRO flor_sorted(states) AS
    list_transform(states, lambda s: {
        'ranked': s['ranked'], 'loops': s['loops'], 'columns': s['columns'],
        'levels': list_transform(s['levels'], lambda l: {
            'nest': l['nest'], 'here': l['here'],
            'upper': list_filter(l['here'], lambda e:
                e['kind'] <> 'loop' AND NOT list_contains(e['over'], l['nest']['id'])),
            'lower': list_filter(l['here'], lambda e: list_contains(e['over'], l['nest']['id'])),
            'wide': list_filter(l['here'], lambda e: flor_is_wide(l['nest'], e)),
            'other': list_filter(l['here'], lambda e: NOT flor_is_wide(l['nest'], e))
        })
    });

-- Step 6: the scans of the columns.
CREATE OR REPLACE MACRO flor_scanned(states) AS
    list_transform(states, lambda s: {
        'ranked': s['ranked'], 'loops': s['loops'], 'columns': s['columns'],
        'levels': list_transform(s['levels'], lambda l: {
            'nest': l['nest'], 'here': l['here'], 'upper': l['upper'], 'lower': l['lower'],
            'simple': len(l['other']) = 0 AND len(l['lower']) = 0,
            'scans': flor_scans(l['nest'], l['wide'], l['other'], len(l['lower']) > 0)
        })
    });

-- Step 7: the nests below each, and those around it that have values to repeat.
CREATE OR REPLACE MACRO flor_related(states) AS
    list_transform(states, lambda s: {
        'ranked': s['ranked'], 'loops': s['loops'], 'columns': s['columns'],
        'levels': list_transform(s['levels'], lambda l: {
            'nest': l['nest'], 'here': l['here'], 'upper': l['upper'], 'lower': l['lower'],
            'simple': l['simple'], 'scans': l['scans'],
            'below': list_filter(s['levels'], lambda b: len(b['here']) > 0
                AND b['nest']['id'] <> l['nest']['id']
                AND list_contains(b['nest']['up'], l['nest']['id'])),
            'around': list_filter(s['levels'], lambda a: a['nest']['id'] <> l['nest']['id']
                AND list_contains(l['nest']['up'], a['nest']['id'])
                AND (len(a['upper']) > 0 OR a['nest']['id'] = 0))
        })
    });

-- Step 8: the values that repeat, and where they come from; the columns of the nests below.
CREATE OR REPLACE MACRO flor_carried(states) AS
    list_transform(states, lambda s: {
        'ranked': s['ranked'], 'loops': s['loops'], 'columns': s['columns'],
        'rank': CASE WHEN s['ranked'] THEN ', a.rank' ELSE '' END,
        'levels': list_transform(s['levels'], lambda l: {
            'nest': l['nest'], 'upper': l['upper'], 'lower': l['lower'], 'simple': l['simple'],
            'shown': list_filter(l['here'], lambda e: e['kind'] <> 'loop'),
            'below': list_transform(l['below'], lambda b: {'nest': b['nest']}),
            'inside': flatten(list_transform(l['below'], lambda b: b['here'])),
            'loops': flatten(list_transform(
                list_filter(s['columns'], lambda e: e['kind'] = 'loop'), lambda e: e['nests'])),
            'ids': array_to_string(list_transform(list_filter(s['columns'],
                lambda e: e['kind'] = 'name' AND len(e['reach']) > 1), lambda e: e['id']), ', '),
            'carried': flatten(list_transform(l['around'], lambda a: a['upper'])),
            'from': coalesce(l['around'][1]['nest'], l['nest']),
            'side': CASE WHEN len(l['here']) = 0 THEN ''
                ELSE flor_joined(l['nest'], l['here'], l['scans']) END
        })
    });

-- Step 9: the parts of WITH, each after those that it refers to.
CREATE OR REPLACE MACRO flor_parts(states) AS
    list_transform(states, lambda s: {
        'ranked': s['ranked'], 'loops': s['loops'], 'columns': s['columns'], 'rank': s['rank'],
        'flat': list_filter(s['levels'], lambda l:
            l['nest']['id'] = 0 AND l['simple'] AND len(l['below']) = 0),
        'sides': list_transform(list_filter(s['levels'], lambda l: l['side'] <> ''),
            lambda l: concat('p', l['nest']['id'], ' AS NOT MATERIALIZED (', l['side'], ')')),
        'above': list_reverse(list_transform(
            list_filter(s['levels'], lambda l: len(l['below']) > 0
                AND (len(l['upper']) > 0 OR l['nest']['id'] = 0)),
            lambda l: flor_above(l, s['rank']))),
        'uncovered': list_transform(
            list_filter(s['levels'], lambda l: l['side'] <> '' AND len(l['below']) > 0
                AND l['nest']['id'] <> 0),
            lambda l: flor_uncovered(l)),
        'entries': list_transform(list_filter(s['levels'], lambda l: l['side'] <> ''),
            lambda l: flor_entries(l, s['rank']))
    });

-- Step 10: all of them, and the rows under each other.
CREATE OR REPLACE MACRO flor_together(states) AS
    list_transform(states, lambda s: {
        'ranked': s['ranked'], 'loops': s['loops'], 'columns': s['columns'], 'rank': s['rank'],
        'flat': s['flat'],
        'parts': flatten([s['sides'], s['above'], s['uncovered']]),
        'rows': CASE WHEN len(s['entries']) = 1 THEN s['entries'][1]
            ELSE concat('(', array_to_string(list_transform(s['entries'],
                lambda e: concat('FROM ', e)), ' UNION ALL BY NAME '), ')') END
    });

-- Step 11: the query for a list of names, NULL for all.
CREATE OR REPLACE MACRO flor_pivot_sql(names) AS
    list_transform(
        flor_together(flor_parts(flor_carried(flor_related(flor_scanned(flor_sorted(flor_levels(
            flor_involved(flor_distinct(flor_meant([flor_catalog()], names::VARCHAR[]),
            names::VARCHAR[]))))))))),
        lambda s: CASE WHEN len(s['parts']) = 0 THEN flor_bare(s)
            WHEN len(s['flat']) > 0 THEN flor_flat(s) ELSE flor_rows(s) END
    )[1];

CREATE OR REPLACE MACRO flor_pivot(names) AS TABLE FROM query(flor_pivot_sql(names));
