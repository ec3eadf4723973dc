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
        lambda e: CASE WHEN e['is_loop'] THEN 'NULL' ELSE concat('n', e['id']) END), ', '),
    CASE WHEN len(several) = 1 THEN '' ELSE ')' END, ' IS NOT NULL');

CREATE OR REPLACE MACRO flor_own_columns(several) AS
    array_to_string(list_transform(several, lambda e: CASE WHEN e['is_loop'] THEN ''
        ELSE concat(', ', e['column'], ' AS ', e['alias']) END), '');

-- The columns of names, and the iterations of loops, in the table of their nest: all in one scan.
-- `marked`: whether it must be said which of them a row has.
CREATE OR REPLACE MACRO flor_wide(nest, several, marked) AS
    concat('SELECT tstamp, ', nest['columns'], ', ', nest['ordinal'], ' AS o',
    flor_own_columns(several),
    CASE WHEN marked THEN array_to_string(list_transform(several,
        lambda e: concat(
            CASE WHEN e['is_loop'] THEN concat(', ', nest['ordinal'], ' = 0 AS m')
            ELSE concat(', n', e['id'], ' IS NOT NULL AS m') END, e['alias'])), '') ELSE '' END,
    ' FROM flor_at_', nest['id'], ' WHERE ',
    CASE WHEN list_contains(list_transform(several, lambda e: e['is_loop']), true)
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

-- The column of a name that has other values elsewhere.
CREATE OR REPLACE MACRO flor_own(nest, e) AS
    concat('SELECT ', nest['columns'], ', ', nest['ordinal'], ' AS o, ', e['column'], ' AS ',
    e['alias'], ', true AS m', e['alias'], ' FROM flor_at_', nest['id'], ' WHERE n', e['id'],
    ' IS NOT NULL');

-- One scan of a name that is more than its column, or that has none.
CREATE OR REPLACE MACRO flor_scan(nest, e) AS
    concat(
    CASE WHEN NOT e['wide'] THEN '' WHEN e['column'] = '' THEN flor_mixed(nest, e)
        ELSE flor_own(nest, e) END,
    CASE WHEN e['wide'] AND e['odd'] THEN ' UNION ALL BY NAME ' ELSE '' END,
    CASE WHEN e['odd'] THEN flor_odd(nest, e) ELSE '' END);

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
CREATE OR REPLACE MACRO flor_joined(l) AS
    CASE WHEN len(l['scans']) = 1 THEN l['scans'][1] ELSE
    concat('SELECT ', array_to_string(list_transform(
        list_append(l['dims'], 'o'), lambda d: flor_first(len(l['scans']), d)), ', '),
    l['listed'], ' FROM ', array_to_string(list_transform(l['scans'], lambda scan, i:
        concat(CASE WHEN i = 1 THEN '' ELSE ' FULL JOIN ' END, '(', scan, ') t', i,
        CASE WHEN i = 1 THEN '' ELSE concat(' USING (', l['key'], ', o)') END)), '')) END;

-- Whether a row of names side by side has a value of one of these.
CREATE OR REPLACE MACRO flor_marks(several) AS
    concat(
    '(', array_to_string(list_transform(several, lambda e: concat('m', e['alias'], ' OR ')), ''),
    'false) IS TRUE');

CREATE OR REPLACE MACRO flor_values(prefix, aliases) AS
    array_to_string(list_transform(aliases, lambda a: concat(', ', prefix, a)), '');

-- What repeats on the rows of a nest, from the relation `a`.
CREATE OR REPLACE MACRO flor_repeated(rank, carried) AS
    concat('SELECT a.projid, a.tstamp, a.filename', rank, flor_values('a.', carried));

-- p<nest>, of which a row may have values of some names only (`upper`).
CREATE OR REPLACE MACRO flor_upper(l) AS
    concat('FROM p', l['id'], CASE WHEN l['lower'] = '' THEN ''
        ELSE concat(' WHERE ', l['marks']) END);

-- a<nest>
CREATE OR REPLACE MACRO flor_above(l, rank) AS
    concat('a', l['id'], ' AS NOT MATERIALIZED (',
    CASE WHEN l['id'] = 0 THEN
        concat(
        'SELECT a.projid, a.tstamp, a.filename, a.run_id', rank, flor_values('p.', l['upper']),
        ' FROM flor_runs a', CASE WHEN len(l['upper']) = 0 THEN '' ELSE
            concat(' LEFT JOIN (', flor_upper(l), ') p USING (', l['run'], ')') END)
    ELSE
        concat(flor_repeated(rank, l['carried']), ', p.', l['key'],
        flor_values('p.', l['upper']), ' FROM (',
        CASE WHEN l['simple'] THEN concat('SELECT ', l['columns'], l['own'], ' FROM flor_at_',
            l['id'], CASE WHEN l['ordinal'] = '0' THEN ''
                ELSE concat(' WHERE ordinal = 0 OR ', l['value']) END)
        ELSE concat('FROM (SELECT ', l['columns'], ' FROM flor_at_', l['id'],
            CASE WHEN l['ordinal'] = '0' THEN '' ELSE ' WHERE ordinal = 0' END,
            ') LEFT JOIN (SELECT ', l['key'], flor_values('', l['upper']), ' ',
            flor_upper(l), ') USING (', l['key'], ')') END,
        ') p JOIN a', l['from_id'], ' a USING (', l['from_key'], ')')
    END, ')');

-- x<nest>
CREATE OR REPLACE MACRO flor_uncovered(l) AS
    concat('x', l['id'], ' AS NOT MATERIALIZED (SELECT ', l['run'],
    ' FROM flor_runs ANTI JOIN (SELECT run_id, rank FROM flor_series WHERE covers & ',
    l['bit'], ' <> 0 AND nest_id IN (', array_to_string(l['below'], ', '),
    ') AND name_id IN (', CASE WHEN len(l['inside']) = 0 THEN 'NULL'
        ELSE array_to_string(l['inside'], ', ') END,
    ')) USING (run_id, rank))');

-- The runs in which one of these has a value inside a loop.
CREATE OR REPLACE MACRO flor_runs_with(run, loops, ids) AS
    array_to_string(list_concat(
        list_transform(loops, lambda n: concat('SELECT ', run, ' FROM flor_at_', n)),
        CASE WHEN ids = '' THEN [] ELSE list_transform(['flor_series', 'flor_odd_logs'], lambda t:
            concat('SELECT ', run, ' FROM ', t, ' WHERE nest_id <> 0 AND name_id IN (', ids, ')'))
        END), ' UNION ALL ');

-- The rows of p<nest> that have no rows below them.
CREATE OR REPLACE MACRO flor_alone(l, s) AS
    concat('FROM (FROM p', l['id'], CASE WHEN l['lower'] = '' THEN ''
        ELSE concat(' WHERE NOT ', l['lower']) END, ')',
    CASE WHEN l['id'] = 0 THEN
        concat(' ANTI JOIN (', flor_runs_with(l['run'], s['within'], s['ids']), ') USING (',
        l['run'], ')')
    ELSE concat(' SEMI JOIN x', l['id'], ' USING (', l['run'], ') ANTI JOIN (',
        array_to_string(list_transform(l['below'], lambda b: concat('SELECT ', l['key'],
            ' FROM p', b, ' SEMI JOIN x', l['id'], ' USING (', l['run'], ')')), ' UNION ALL '),
        ') USING (', l['key'], ')') END);

-- The rows of a nest: those of p, but where other nests are below it only those without rows there. A
-- name with values further below, too, (`lower`) does not repeat there: where it is, there is a row
-- of its own, with the names that share its context and occurrence.
CREATE OR REPLACE MACRO flor_entries(l, s) AS
    concat('(', CASE WHEN s['brief'] AND l['is_alone'] THEN 'SELECT p.tstamp'
        ELSE flor_repeated(s['rank'], l['carried']) END,
    array_to_string(list_transform(l['labels'], lambda d: concat(', p.', d)), ''),
    flor_values('p.', l['shown']), ' FROM ',
    CASE WHEN len(l['below']) = 0 THEN concat('p', l['id'])
    ELSE concat('(', CASE WHEN l['lower'] = '' THEN ''
        ELSE concat('FROM p', l['id'], ' WHERE ', l['lower'], ' UNION ALL ') END,
        flor_alone(l, s), ')') END,
    ' p', CASE WHEN s['brief'] AND l['is_alone'] THEN ')' ELSE concat(' JOIN ',
        CASE WHEN l['id'] = 0 THEN 'flor_runs' ELSE concat('a', l['from_id']) END,
        ' a USING (', l['from_key'], '))') END);

-- What a row says about its run, but for its rank.
CREATE OR REPLACE MACRO flor_dimensions(s) AS
    CASE WHEN s['brief'] THEN 'tstamp' ELSE 'projid, tstamp, filename' END;

-- The relation for columns with values somewhere.
CREATE OR REPLACE MACRO flor_rows(s) AS
    concat('WITH ', array_to_string(s['parts'], ', '), ' SELECT ', flor_dimensions(s),
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
    concat('SELECT ', CASE WHEN s['brief'] THEN 'tstamp' ELSE 'a.projid, a.tstamp, a.filename' END,
    s['rank'],
    array_to_string(list_transform(s['columns'], lambda e: concat(', ',
        CASE WHEN e['kind'] = 'none' THEN 'NULL::DOUBLE' ELSE e['column'] END,
        ' AS ', flor_quoted(e['label']))), ''),
    ' FROM flor_at_0', CASE WHEN s['brief'] THEN ''
        ELSE concat(' JOIN flor_runs a USING (', s['flat'][1]['run'], ')') END,
    CASE WHEN s['flat'][1]['is_whole'] THEN '' ELSE concat(' WHERE ', s['flat'][1]['value']) END);

-- The relation for columns without any value: a row a run if no column was asked for, else none.
CREATE OR REPLACE MACRO flor_bare(s) AS
    concat('SELECT ', flor_dimensions(s),
    CASE WHEN s['ranked'] THEN ', min(rank) AS rank' ELSE '' END,
    array_to_string(list_transform(
        list_filter(s['columns'], lambda e: e['kind'] <> 'loop'),
        lambda e: concat(', NULL::DOUBLE AS ', flor_quoted(e['label']))), ''),
    ' FROM flor_runs ', CASE WHEN len(s['columns']) > 0 THEN 'WHERE false' ELSE '' END,
    CASE WHEN s['ranked'] THEN ' GROUP BY run_id, projid, tstamp, filename' ELSE '' END);

-- Step 1: what each name in the list means.
CREATE OR REPLACE MACRO flor_meant(catalogs, asked, brief) AS
    list_transform(catalogs, lambda c: {
        'ranked': c['ranked'], 'brief': brief AND NOT c['ranked'],
        'nests': c['nests'], 'loops': c['loops'],
        'columns': CASE WHEN asked IS NULL
            THEN list_filter(c['columns'], lambda e: e['kind'] = 'name')
            ELSE list_transform(
                list_filter(asked, lambda a: a IS NOT NULL),
                lambda a, i: flor_column(c['columns'], a, i)) END
    });

-- Step 2: no dimension columns, and each column once (all names are distinct as they are).
CREATE OR REPLACE MACRO flor_distinct(states, asked) AS
    list_transform(states, lambda s: {
        'ranked': s['ranked'], 'brief': s['brief'], 'nests': s['nests'], 'loops': s['loops'],
        'columns': CASE WHEN asked IS NULL THEN s['columns']
            ELSE list_filter(s['columns'], lambda e, i: e['kind'] <> 'dim' AND list_position(
                list_transform(s['columns'], lambda f: concat(f['kind'], f['label'])),
                concat(e['kind'], e['label'])) = i) END
    });

-- Step 3: the nests and loops that are involved; the nests of the loops whose columns are asked for
-- (`within`), and the names with values inside loops (`ids`).
CREATE OR REPLACE MACRO flor_involved(states) AS
    list_transform(
        list_transform(states, lambda s: {
            'all': s,
            'reach': list_distinct(flatten(list_transform(s['columns'], lambda e: e['reach'])))
        }),
        lambda s: {
            'ranked': s['all']['ranked'], 'brief': s['all']['brief'],
            'nests': list_filter(s['all']['nests'], lambda n: list_contains(s['reach'], n['id'])),
            'loops': list_filter(s['all']['loops'], lambda l: list_has_any(s['reach'], l['nests'])),
            'columns': s['all']['columns'],
            'within': flatten(list_transform(s['all']['columns'],
                lambda e: CASE WHEN e['kind'] = 'loop' THEN e['nests'] ELSE [] END)),
            'ids': array_to_string(list_filter(list_transform(s['all']['columns'],
                lambda e: CASE WHEN e['kind'] = 'name' AND len(e['reach']) > 1 THEN e['id'] END),
                lambda id: id IS NOT NULL), ', ')
        });

-- Step 4: for each nest the columns that have values in it. From here on there is only what is needed
-- of them: DuckDB makes room for thousands of values of each field in each step.
CREATE OR REPLACE MACRO flor_levels(states) AS
    list_transform(states, lambda s: {
        'ranked': s['ranked'], 'brief': s['brief'], 'loops': s['loops'],
        'within': s['within'], 'ids': s['ids'],
        'columns': list_transform(s['columns'], lambda e: {
            'kind': e['kind'], 'alias': e['alias'], 'column': e['column'], 'label': e['label']}),
        'levels': list_transform(s['nests'], lambda n: {
            'nest': n,
            'here': list_transform(
                list_filter(s['columns'], lambda e: list_contains(e['nests'], n['id'])),
                lambda e: {
                    'is_loop': e['kind'] = 'loop', 'id': e['id'], 'alias': e['alias'],
                    'expr': e['expr'], 'column': e['column'],
                    'wide': list_contains(e['wide'], n['id']),
                    'odd': list_contains(e['odd'], n['id']),
                    'lower': list_contains(e['over'], n['id'])
                })
        })
    });

-- Step 5: of these, the names whose values repeat below the nest (`upper`) and those that have values
-- there (`lower`); those that are nothing but their column in the nest's table (`wide`).
CREATE OR REPLACE MACRO flor_sorted(states) AS
    list_transform(states, lambda s: {
        'ranked': s['ranked'], 'brief': s['brief'], 'loops': s['loops'],
        'within': s['within'], 'ids': s['ids'], 'columns': s['columns'],
        'levels': list_transform(s['levels'], lambda l: {
            'nest': l['nest'], 'here': l['here'],
            'upper': list_filter(l['here'], lambda e: NOT e['is_loop'] AND NOT e['lower']),
            'lower': list_filter(l['here'], lambda e: e['lower']),
            'wide': list_filter(l['here'],
                lambda e: e['is_loop'] OR (NOT e['odd'] AND e['column'] <> '')),
            'other': list_filter(l['here'],
                lambda e: NOT e['is_loop'] AND (e['odd'] OR e['column'] = ''))
        })
    });

-- Step 6: what the others must know of each nest.
CREATE OR REPLACE MACRO flor_placed(states) AS
    list_transform(states, lambda s: {
        'ranked': s['ranked'], 'brief': s['brief'], 'loops': s['loops'],
        'within': s['within'], 'ids': s['ids'], 'columns': s['columns'], 'levels': s['levels'],
        'places': list_transform(s['levels'], lambda l: {
            'id': l['nest']['id'], 'up': l['nest']['up'], 'key': l['nest']['key'],
            'upper': list_transform(l['upper'], lambda e: e['alias']),
            'is_there': len(l['here']) > 0,
            'names': list_filter(list_transform(l['here'],
                lambda e: CASE WHEN NOT e['is_loop'] THEN e['id'] END), lambda id: id IS NOT NULL)
        })
    });

-- Step 7: the nests below each, and those around it that have values to repeat.
CREATE OR REPLACE MACRO flor_related(states) AS
    list_transform(states, lambda s: {
        'ranked': s['ranked'], 'brief': s['brief'], 'loops': s['loops'],
        'within': s['within'], 'ids': s['ids'], 'columns': s['columns'],
        'levels': list_transform(s['levels'], lambda l: {
            'nest': l['nest'], 'here': l['here'], 'upper': l['upper'], 'lower': l['lower'],
            'wide': l['wide'], 'other': l['other'],
            'below': list_filter(s['places'], lambda b: b['is_there']
                AND b['id'] <> l['nest']['id'] AND list_contains(b['up'], l['nest']['id'])),
            'around': list_filter(s['places'], lambda a: a['id'] <> l['nest']['id']
                AND list_contains(l['nest']['up'], a['id'])
                AND (len(a['upper']) > 0 OR a['id'] = 0))
        })
    });

-- Step 8: what each nest says, as text; the values that repeat there, and where they come from.
CREATE OR REPLACE MACRO flor_scanned(states) AS
    list_transform(states, lambda s: {
        'ranked': s['ranked'], 'brief': s['brief'], 'loops': s['loops'],
        'within': s['within'], 'ids': s['ids'], 'columns': s['columns'],
        'rank': CASE WHEN s['ranked'] THEN ', a.rank' ELSE '' END,
        'levels': list_transform(s['levels'], lambda l: {
            'id': l['nest']['id'], 'bit': l['nest']['bit'], 'run': l['nest']['run'],
            'key': l['nest']['key'], 'dims': l['nest']['dims'], 'labels': l['nest']['labels'],
            'columns': l['nest']['columns'], 'ordinal': l['nest']['ordinal'],
            'upper': list_transform(l['upper'], lambda e: e['alias']),
            'marks': flor_marks(l['upper']),
            'lower': CASE WHEN len(l['lower']) = 0 THEN '' ELSE flor_marks(l['lower']) END,
            'own': flor_own_columns(l['upper']),
            'value': flor_has_value(l['upper']),
            'is_whole': len(l['upper']) = l['nest']['width'],
            'simple': len(l['other']) = 0 AND len(l['lower']) = 0,
            'shown': list_filter(list_transform(l['here'],
                lambda e: CASE WHEN e['is_loop'] THEN '' ELSE e['alias'] END), lambda a: a <> ''),
            'listed': array_to_string(list_transform(l['here'], lambda e: concat(', m', e['alias'],
                CASE WHEN e['is_loop'] THEN '' ELSE concat(', ', e['alias']) END)), ''),
            'scans': flor_scans(l['nest'], l['wide'], l['other'], len(l['lower']) > 0),
            'below': list_transform(l['below'], lambda b: b['id']),
            'inside': flatten(list_transform(l['below'], lambda b: b['names'])),
            'carried': flatten(list_transform(l['around'], lambda a: a['upper'])),
            'is_alone': len(l['other']) = 0
                AND len(flatten(list_transform(l['around'], lambda a: a['upper']))) = 0,
            'from_id': coalesce(l['around'][1]['id'], l['nest']['id']),
            'from_key': coalesce(l['around'][1]['key'], l['nest']['key'])
        })
    });

-- Step 9: the parts of WITH, each after those that it refers to.
CREATE OR REPLACE MACRO flor_parts(states) AS
    list_transform(states, lambda s: {
        'ranked': s['ranked'], 'brief': s['brief'], 'loops': s['loops'],
        'columns': s['columns'], 'rank': s['rank'],
        'flat': list_filter(s['levels'], lambda l:
            l['id'] = 0 AND l['simple'] AND len(l['below']) = 0),
        'sides': list_transform(list_filter(s['levels'], lambda l: len(l['scans']) > 0),
            lambda l: concat('p', l['id'], ' AS NOT MATERIALIZED (', flor_joined(l), ')')),
        'above': list_reverse(list_transform(
            list_filter(s['levels'], lambda l: len(l['below']) > 0
                AND (len(l['upper']) > 0 OR l['id'] = 0)),
            lambda l: flor_above(l, s['rank']))),
        'uncovered': list_transform(
            list_filter(s['levels'], lambda l: len(l['scans']) > 0 AND len(l['below']) > 0
                AND l['id'] <> 0),
            lambda l: flor_uncovered(l)),
        'entries': list_transform(list_filter(s['levels'], lambda l: len(l['scans']) > 0),
            lambda l: flor_entries(l, s))
    });

-- Step 10: all of them, and the rows under each other.
CREATE OR REPLACE MACRO flor_together(states) AS
    list_transform(states, lambda s: {
        'ranked': s['ranked'], 'brief': s['brief'], 'loops': s['loops'],
        'columns': s['columns'], 'rank': s['rank'],
        'flat': s['flat'],
        'parts': flatten([s['sides'], s['above'], s['uncovered']]),
        'rows': CASE WHEN len(s['entries']) = 1 THEN s['entries'][1]
            ELSE concat('(', array_to_string(list_transform(s['entries'],
                lambda e: concat('FROM ', e)), ' UNION ALL BY NAME '), ')') END
    });

-- Step 11: the query for a list of names, NULL for all. `brief`: of the dimensions tstamp will do, for
-- which nests' tables need not be joined with runs.
CREATE OR REPLACE MACRO flor_pivot_sql(names, brief := false) AS
    list_transform(
        flor_together(flor_parts(flor_scanned(flor_related(flor_placed(flor_sorted(flor_levels(
            flor_involved(flor_distinct(flor_meant([flor_catalog()], names::VARCHAR[], brief),
            names::VARCHAR[]))))))))),
        lambda s: CASE WHEN len(s['parts']) = 0 THEN flor_bare(s)
            WHEN len(s['flat']) > 0 THEN flor_flat(s) ELSE flor_rows(s) END
    )[1];

CREATE OR REPLACE MACRO flor_pivot(names) AS TABLE FROM query(flor_pivot_sql(names));
