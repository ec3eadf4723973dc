"""Statements find their place in old code: what a user sees of propagation, by small programs."""

from __future__ import annotations

import textwrap

from flordb.replay.propagate import (
    Matcher,
    Patch,
    Refusal,
    Site,
    merge,
    propagate,
    propagate_all,
    propagate_source,
)


def code(text: str) -> str:
    return textwrap.dedent(text).lstrip("\n")


OLD = code(
    """
    import flordb as flor
    from data import load  # the loader

    net, optimizer, criterion = build()
    batches = load("train")

    for epoch in flor.loop("epoch", range(5)):
        for x, y in flor.loop("step", batches):
            out = net(x)
            loss = criterion(out, y)
            loss.backward()
            optimizer.step()   # careful
        accuracy = validate(net)
        flor.log("accuracy", accuracy)
    """
)


def site(text: str, needle: str) -> int:
    return next(n for n, line in enumerate(text.splitlines(), 1) if needle in line)


def put(old: str, new: str, needle: str) -> Patch | Refusal:
    return propagate({"train.py": old}, {"train.py": new}, Site("train.py", site(new, needle)))


def patched(old: str, new: str, needle: str) -> str:
    answer = put(old, new, needle)
    assert isinstance(answer, Patch), answer
    return answer.files["train.py"]


def refused(old: str, new: str, needle: str) -> str:
    answer = put(old, new, needle)
    assert isinstance(answer, Refusal), answer.files
    return answer.reason


def with_line(text: str, before: str, line: str) -> str:
    lines = text.splitlines(keepends=True)
    at = site(text, before) - 1
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    return "".join([*lines[:at], f"{indent}{line}\n", *lines[at:]])


def test_statement_takes_the_place_it_has_in_the_newer_version():
    new = with_line(OLD, "loss.backward()", 'flor.log("loss", loss.item())')
    assert patched(OLD, new, '"loss"') == new


def test_only_the_insertion_differs_and_its_lines_are_named():
    new = with_line(OLD, "optimizer.step()", 'flor.log("norm", loss.item())')
    answer = put(OLD, new, '"norm"')
    assert isinstance(answer, Patch)
    (insertion,) = answer.insertions
    lines = answer.files["train.py"].splitlines(keepends=True)
    assert "".join(lines[: insertion.first - 1] + lines[insertion.last :]) == OLD
    assert insertion.kind == "statement"


def test_statement_follows_the_definition_of_what_it_reads():
    old = code(
        """
        import flordb as flor
        seed()
        x_train = load()
        model = build()
        """
    )
    new = code(
        """
        import flordb as flor
        seed()
        x_train = load()
        flor.log("size", len(x_train))
        net = create(x_train, 3)
        """
    )
    assert "x_train = load()\nflor.log" in patched(old, new, '"size"')


def test_renamed_variables_get_their_old_names():
    new = with_line(OLD, "loss.backward()", 'flor.log("loss", loss.item())')
    old = OLD.replace("loss", "batch_error").replace("out", "scores")
    answer = put(old, new, '"loss"')
    assert isinstance(answer, Patch)
    assert 'flor.log("loss", batch_error.item())' in answer.files["train.py"].replace("'", '"')
    assert answer.renames == {"loss": "batch_error"}


def test_renamed_variables_keep_the_quotes_and_the_text_of_an_f_string():
    new = OLD.replace("loss", "value").replace(
        "    value.backward()",
        '    flor.log(f"value {value:.3f}", value)  # it\n        value.backward()',
    )
    answer = put(OLD, new, "flor.log(f")
    assert isinstance(answer, Patch), answer
    assert 'flor.log(f"value {loss:.3f}", loss)  # it' in answer.files["train.py"]


def test_swapped_looking_names_are_not_swapped():
    old = code(
        """
        import flordb as flor
        for batch in batches:
            actor_loss = actor(batch)
            critic_loss = critic(batch)
            update(actor_loss, critic_loss)
        """
    )
    new = code(
        """
        import flordb as flor
        for batch in batches:
            critic_loss = critic(batch)
            actor_loss = actor(batch)
            flor.log("actor", actor_loss)
            update(actor_loss, critic_loss)
        """
    )
    text = patched(old, new, '"actor"')
    assert 'flor.log("actor", actor_loss)' in text


def test_missing_name_is_refused_with_the_nearest_one():
    new = OLD.replace('load("train")', 'load("train")\nval_loader = fresh(load("val"))')
    new = with_line(new, 'flor.log("accuracy"', 'flor.log("n", len(val_loader))')
    old = OLD.replace("batches", "loader_val")
    reason = refused(old, new, '"n"')
    assert "`val_loader` is not defined in train.py" in reason
    assert "`loader_val`" in reason


def test_name_that_is_bound_on_one_branch_only_is_refused():
    lines = "    flor.log('acc', accuracy)\n    report()\n    accuracy = 0\n"
    new = OLD.replace('    flor.log("accuracy", accuracy)\n', "    prepare()\n" + lines)
    old = OLD.replace("accuracy = validate(net)", "if epoch:\n        accuracy = validate(net)")
    old = old.replace('    flor.log("accuracy", accuracy)\n', "    prepare()\n    report()\n")
    assert "`accuracy` is not bound on every way" in refused(old, new, "'acc'")


def test_statement_goes_into_the_branch_that_computes_what_it_reads():
    old = OLD.replace("accuracy = validate(net)", "if epoch:\n        accuracy = validate(net)")
    old = old.replace('    flor.log("accuracy", accuracy)\n', "")
    new = OLD.replace('flor.log("accuracy", accuracy)', 'flor.log("acc", accuracy)')
    text = patched(old, new, '"acc"')
    assert '        accuracy = validate(net)\n        flor.log("acc", accuracy)\n' in text


def test_statement_takes_the_only_slot_from_which_what_it_binds_reaches_its_uses():
    old = code(
        """
        def show(suffix, done):
            if done:
                print("{0}: {1}".format(log_name, suffix.pop()))
                suffix.clear()
        """
    )
    new = code(
        """
        def show(suffix, done):
            if done:
                log_name = "Test" + suffix[0]
                logger.info(f"{log_name}: {suffix.pop()}", extra)
        """
    )
    answer = put(old, new, "log_name =")
    assert isinstance(answer, Patch), answer
    assert answer.files["train.py"].splitlines()[2] == '        log_name = "Test" + suffix[0]'


def test_statement_that_the_old_version_has_is_refused():
    assert "already logs `accuracy`" in refused(OLD, OLD, 'log("accuracy"')


def test_value_computed_by_pure_new_code_is_brought_along():
    new = with_line(OLD, "loss.backward()", "ratio = loss.item() / len(batches)")
    new = with_line(new, "loss.backward()", 'flor.log("ratio", ratio)')
    answer = put(OLD, new, '"ratio", ratio')
    assert isinstance(answer, Patch)
    assert answer.files["train.py"] == new
    assert [(i.kind, i.last - i.first) for i in answer.insertions] == [("statement", 1)]


def test_new_helper_constant_and_import_are_brought_along():
    new = OLD.replace(
        "net, optimizer",
        "import math\nSCALE = 2\n\n\ndef scaled(value):\n    return SCALE * math.sqrt(value)\n\n\n"
        "net, optimizer",
    )
    new = with_line(new, "loss.backward()", 'flor.log("scaled", scaled(loss.item()))')
    text = patched(OLD, new, '"scaled"')
    assert text.index("SCALE = 2") < text.index("def scaled") < text.index('flor.log("scaled"')
    assert "import math" in text


def test_a_value_that_the_newer_version_changes_is_no_constant():
    for change in (
        "seen[0] += 1",
        "seen.append(x)",
        "note(seen)",
        "seen = [epoch]",
        "loss = note(loss, seen)",
    ):
        new = OLD.replace("net, optimizer", "seen = [0]\nnet, optimizer", 1)
        new = with_line(new, "loss.backward()", change)
        new += 'flor.log("seen", seen[0])\n'
        assert "`seen` is not defined in train.py" in refused(OLD, new, '"seen", seen')


def test_new_code_that_acts_on_the_training_is_refused():
    new = with_line(OLD, "loss.backward()", "again = optimizer.step(net)")
    new = with_line(new, "loss.backward()", 'flor.log("again", again)')
    assert "optimizer.step()" in refused(OLD, new, '"again", again')


def test_new_helper_that_steps_is_refused():
    new = "def helper(o):\n    o.step()\n    return 1\n\n\n" + OLD
    new = with_line(new, "loss.backward()", 'flor.log("h", helper(optimizer))')
    assert "step" in refused(OLD, new, '"h"')


def test_new_module_is_brought_whole():
    new = OLD.replace("from data", "from metrics import f1\nfrom data")
    new = with_line(new, 'flor.log("accuracy"', 'flor.log("f1", f1(accuracy))')
    answer = propagate(
        {"train.py": OLD},
        {"train.py": new, "metrics.py": "def f1(value):\n    return 2 * value\n"},
        Site("train.py", site(new, '"f1"')),
    )
    assert isinstance(answer, Patch)
    assert "def f1" in answer.files["metrics.py"]
    assert "from metrics import f1" in answer.files["train.py"]


def test_statement_moves_into_the_file_that_held_the_code_before_the_split():
    old = code(
        """
        import flordb as flor


        def evaluate(net, loader):
            correct = 0
            for x, y in loader:
                correct += (net(x) == y).sum()
            return correct / len(loader)


        for epoch in flor.loop("epoch", range(3)):
            accuracy = evaluate(net, loader)
        """
    )
    moved = code(
        """
        import flordb as flor


        def evaluate(net, loader):
            correct = 0
            for x, y in loader:
                correct += (net(x) == y).sum()
            flor.log("correct", correct)
            return correct / len(loader)
        """
    )
    new = {
        "train.py": code(
            """
            import flordb as flor
            from evaluate import evaluate

            for epoch in flor.loop("epoch", range(3)):
                accuracy = evaluate(net, loader)
            """
        ),
        "evaluate.py": moved,
    }
    answer = propagate({"train.py": old}, new, Site("evaluate.py", site(moved, '"correct"')))
    assert isinstance(answer, Patch), answer
    assert list(answer.files) == ["train.py"]
    assert '    flor.log("correct", correct)\n    return' in answer.files["train.py"]
    back = propagate(
        {k: v.replace('    flor.log("correct", correct)\n', "") for k, v in new.items()},
        {"train.py": with_line(old, "return correct", 'flor.log("correct", correct)')},
        Site("train.py", site(old, "return correct")),
    )
    assert isinstance(back, Patch), back
    assert list(back.files) == ["evaluate.py"]


def test_statement_leaves_a_function_that_the_old_version_has_inline():
    new = code(
        """
        import flordb as flor
        from data import load  # the loader

        net, optimizer, criterion = build()
        batches = load("train")


        def train_step(x, y):
            out = net(x)
            loss = criterion(out, y)
            flor.log("loss", loss)
            loss.backward()
            optimizer.step()


        for epoch in flor.loop("epoch", range(5)):
            for x, y in flor.loop("step", batches):
                train_step(x, y)
            accuracy = validate(net)
            flor.log("accuracy", accuracy)
        """
    )
    expected = with_line(OLD, "loss.backward()", 'flor.log("loss", loss)')
    assert patched(OLD, new, '"loss"') == expected
    assert "def train_step" in (
        text := patched(new.replace('    flor.log("loss", loss)\n', ""), expected, '"loss"')
    )
    assert text == new


def test_statement_enters_a_with_that_wraps_the_loop_body():
    body = "            out = net(x)\n            loss = criterion(out, y)\n"
    old = OLD.replace(
        "        out = net(x)\n        loss = criterion(out, y)\n        loss.backward()\n"
        "        optimizer.step()   # careful\n",
        f"        with autocast():\n{body}            loss.backward()\n"
        "            optimizer.step()\n",
    )
    new = with_line(OLD, "loss.backward()", 'flor.log("loss", loss)')
    assert '            flor.log("loss", loss)\n            loss.backward()' in patched(
        old, new, '"loss"'
    )


def test_loop_names_keep_a_statement_in_its_loop():
    old = code(
        """
        import flordb as flor
        for epoch in flor.loop("epoch", range(3)):
            prepare()
            for x in flor.loop("step", data):
                use(x)
            report(epoch)
        """
    )
    new = code(
        """
        import flordb as flor
        for epoch in flor.loop("epoch", range(3)):
            for x in flor.loop("step", data):
                flor.log("x", x)
                consume(x)
            report(epoch)
        """
    )
    assert '        flor.log("x", x)\n        use(x)' in patched(old, new, '"x"')


def test_new_guard_goes_with_the_statement():
    new = with_line(OLD, "loss.backward()", "if epoch % 2 == 0:")
    new = new.replace("epoch % 2 == 0:\n", 'epoch % 2 == 0:\n            flor.log("l", loss)\n')
    text = patched(OLD, new, '"l"')
    assert text == new


def test_log_inside_an_assignment_is_put_behind_the_old_assignment():
    new = OLD.replace("loss = criterion(out, y)", 'loss = flor.log("loss", criterion(out, y))')
    text = patched(OLD, new, '"loss"').replace("'", '"')
    assert '        loss = criterion(out, y)\n        flor.log("loss", loss)\n' in text


def test_log_inside_a_return_is_put_before_it_unless_it_would_act_twice():
    old = "import flordb as flor\n\n\ndef f(a):\n    b = g(a)\n    return b.item()\n"
    new = old.replace("b.item()", 'flor.log("b", b.item())')
    assert "'b', b.item())\n    return b.item()" in patched(old, new, '"b"').replace('"', "'")
    new = old.replace("b.item()", 'flor.log("b", train(b))')
    assert "train()" in refused(old.replace("b.item()", "train(b)"), new, '"b"')


def test_flor_is_called_as_the_old_version_calls_it():
    new = with_line(OLD, "loss.backward()", 'flor.log("loss", loss)')
    for line, call in (
        ("import flor", "flor.log('loss', loss)"),
        ("from flordb import log, loop", "log('loss', loss)"),
        ("import flordb as fl", "fl.log('loss', loss)"),
    ):
        old = OLD.replace("import flordb as flor", line).replace(
            '    flor.log("accuracy", accuracy)\n', ""
        )
        old = old.replace("flor.loop(", "loop(" if "loop" in line else "flor.loop(")
        assert call in patched(old, new, '"loss"').replace('"', "'")


def test_flor_is_imported_where_the_old_version_does_not():
    old = OLD.replace("import flordb as flor\n", '"""Doc."""\nfrom __future__ import annotations\n')
    old = old.replace('    flor.log("accuracy", accuracy)\n', "")
    for loop in ('flor.loop("epoch", range(5))', 'flor.loop("step", batches)'):
        old = old.replace(loop, loop.split(", ", 1)[1][:-1])
    new = with_line(OLD, "loss.backward()", 'flor.log("loss", loss)')
    text = patched(old, new, '"loss"')
    assert text.startswith(
        '"""Doc."""\nfrom __future__ import annotations\nimport flordb as flor\n'
    )


def test_user_chooses_the_line():
    new = OLD + 'flor.log("done", epoch)\n'
    at = ("train.py", site(OLD, "optimizer.step()"))
    answer = propagate({"train.py": OLD}, {"train.py": new}, Site("train.py", 15), at=at)
    assert isinstance(answer, Patch)
    assert 'flor.log("done", epoch)\n        optimizer.step()' in answer.files["train.py"]
    first = propagate(
        {"train.py": OLD}, {"train.py": new}, Site("train.py", 15), at=("train.py", 1)
    )
    assert isinstance(first, Refusal)


def test_several_statements_are_merged_with_their_support_once():
    new = OLD.replace("net, optimizer", "HALF = 0.5\nnet, optimizer", 1)
    new = with_line(new, "loss.backward()", 'flor.log("a", HALF * loss)')
    new = with_line(new, 'flor.log("accuracy"', 'flor.log("b", HALF * accuracy)')
    sites = [Site("train.py", site(new, f'"{name}"')) for name in "ab"]
    answers = propagate_all({"train.py": OLD}, {"train.py": new}, sites)
    assert all(isinstance(a, Patch) for a in answers), answers
    patch = merge({"train.py": OLD}, [a for a in answers if isinstance(a, Patch)])
    text = patch.files["train.py"]
    assert text.count("HALF = 0.5") == 1
    assert text.index('"a"') < text.index('"b"')
    lines = text.splitlines(keepends=True)
    added = {n for i in patch.insertions for n in range(i.first, i.last + 1)}
    assert "".join(x for n, x in enumerate(lines, 1) if n not in added) == OLD


def test_comments_tabs_and_line_ends_of_the_old_version_stay():
    old = "import flordb as flor\r\nfor e in r:\r\n\ta = f(e)  # why\r\n\tg(a)\r\n"
    new = (
        "import flordb as flor\nfor e in r:\n    a = f(e)\n"
        "    flor.log(\n        'a',\n        a,\n    )\n    g(a)\n"
    )
    text = patched(old, new, "flor.log(")
    assert text == old.replace("\tg(a)", "\tflor.log(\r\n\t    'a',\r\n\t    a,\r\n\t)\r\n\tg(a)")


def test_statement_alone_is_refused_where_it_would_need_new_code():
    new = with_line(OLD, "loss.backward()", "ratio = loss.item()")
    new = with_line(new, "loss.backward()", 'flor.log("ratio", ratio)')
    answer = propagate_source(OLD, new, site(new, '"ratio", ratio'))
    assert isinstance(answer, Refusal)
    assert "`ratio`" in answer.reason


def test_unusual_places_are_refused_with_a_reason():
    new = "import flordb as flor\nxs = [flor.log('x', x) for x in xs]\n"
    assert "ListComp" in refused("import flordb as flor\nxs = [x for x in xs]\n", new, "flor.log")
    new = "import flordb as flor\nwhile flor.log('x', f()):\n    g()\n"
    assert "while" in refused("import flordb as flor\nwhile f():\n    g()\n", new, "while")
    answer = propagate({"a.py": "def ("}, {"a.py": "x = 1\n"}, Site("a.py", 1))
    assert isinstance(answer, Refusal)


def test_one_matcher_answers_for_many_statements():
    new = with_line(OLD, "loss.backward()", 'flor.log("one", loss)')
    new = with_line(new, "optimizer.step()", 'flor.log("two", loss)')
    matcher = Matcher({"train.py": OLD}, {"train.py": new})
    for needle in ("one", "two"):
        assert isinstance(matcher.propagate(Site("train.py", site(new, needle))), Patch)


def test_what_the_newer_version_does_not_always_bind_stays_in_its_branch() -> None:
    old = """\
model = build()
for phase in phases():
    run(model, phase)
    if phase == "val":
        save(model)
model.load(weights)
"""
    line = "        weights = model.state_dict()\n"
    new = old.replace("        save", line + "        save")
    answer = propagate_source(old, new, 5)
    assert isinstance(answer, Patch), answer
    assert answer.files["source.py"] == new


def test_a_new_block_does_not_matter_between_statements_that_are_the_same() -> None:
    steps = "opt.zero_grad()\n{}loss.backward()\nopt.step()\n"
    again = "\n\ndef again(opt, loss):\n" + textwrap.indent(steps.format(""), "    ")
    old = 'opt, loss = make("test")\n' + steps + "report(loss)\n" + again
    body = textwrap.indent(steps.format("print(opt.state)\n"), "    ")
    new = 'opt, loss = make("test")\nif loss > 0:\n' + body + "report(loss)\n"
    answer = propagate_source(old.format(""), new, 4)
    assert isinstance(answer, Patch), answer
    assert answer.files["source.py"] == old.format("print(opt.state)\n")


def test_at_the_end_of_a_new_branch_a_log_is_placed_and_what_acts_is_refused() -> None:
    old = code(
        """
        import flordb as flor
        from parts import build, loader, train
        optimizer = build()
        for batch in loader:
            loss = train(batch)
            optimizer.step()
        """
    )
    new = code(
        """
        import flordb as flor
        from parts import build, loader, train
        optimizer = build()
        for batch in loader:
            loss = train(batch)
            if batch.last:
                optimizer.step()
                {}
        """
    )
    looks, acts = 'flor.log("rate", optimizer.rate)', "optimizer.zero_grad()"
    answer = propagate_source(old, new.format(looks), 8)
    assert isinstance(answer, Patch), answer
    assert answer.files["source.py"] == old + f"    {looks}\n"
    answer = propagate_source(old, new.format(acts), 8)
    assert isinstance(answer, Refusal)
    assert "it is the last in `if batch.last:`" in answer.reason
