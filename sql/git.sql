-- What git knows of a project (the grey tables of figure 5.6), over the functions of udfs/git.py.
-- `version` is the one of the table `runs`. git_source(version, filename) is a file's text.

CREATE OR REPLACE TEMP VIEW git_commits AS
SELECT unnest(flor_git_commits(), max_depth := 2);

CREATE OR REPLACE TEMP VIEW git_files AS
SELECT version, unnest(flor_git_files(version), max_depth := 2) FROM git_commits;
