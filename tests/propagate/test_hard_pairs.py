"""Old and new versions as an engineer would have edited them, the right answer fixed beforehand.

In the old version ``# <-`` marks the line above which the statement belongs; where there is no
mark, it must be refused and the reason must hold the words given.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import pytest

from flordb.replay.propagate import Patch, Refusal, Site, propagate

MARK = "# <-"


@dataclass(frozen=True)
class Pair:
    """``line``: what is put in, where it is not the newer version's own text; ``why``: a refusal's
    words."""

    name: str
    old: str
    new: str
    line: str = ""
    why: str = ""


PAIRS = [
    Pair(
        "gradient accumulation came later",
        """
        for step, batch in enumerate(loader):
            loss = criterion(model(batch), batch.y)
            optimizer.zero_grad()  # <-
            loss.backward()
            optimizer.step()
        """,
        """
        for step, batch in enumerate(loader):
            loss = criterion(model(batch), batch.y)
            flor.log("loss", loss.item())
            (loss / accumulate).backward()
            if (step + 1) % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
        """,
    ),
    Pair(
        "mixed precision wraps the forward pass",
        """
        for batch in loader:
            out = model(batch.x)
            loss = criterion(out, batch.y)
            loss.backward()  # <-
            optimizer.step()
        """,
        """
        for batch in loader:
            with autocast():
                out = model(batch.x)
                loss = criterion(out, batch.y)
                flor.log("loss", loss.item())
            scaler.scale(loss).backward()
            scaler.step(optimizer)
        """,
    ),
    Pair(
        "the script became a class",
        """
        model = build()
        for epoch in range(epochs):
            for batch in loader:
                loss = model.fit(batch)
                record(loss)  # <-
            validate(model)
        """,
        """
        class Trainer:
            def __init__(self):
                self.model = build()

            def train(self):
                for epoch in range(epochs):
                    for batch in loader:
                        loss = self.model.fit(batch)
                        flor.log("loss", loss)
                        record(loss)
                    validate(self.model)
        """,
    ),
    Pair(
        "an attribute of the class was a variable before",
        """
        model = build()
        for epoch in range(epochs):
            loss = model.fit(loader)
            record(loss)
        """,
        """
        class Trainer:
            def __init__(self):
                self.model = build()

            def train(self):
                for epoch in range(epochs):
                    loss = self.model.fit(loader)
                    flor.log("size", self.model.size())
                    record(loss)
        """,
        why="self",
    ),
    Pair(
        "the loop's body was extracted",
        """
        for epoch in range(epochs):
            for x, y in loader:
                pred = net(x)
                loss = criterion(pred, y)
                loss.backward()  # <-
                optimizer.step()
            scheduler.step()
        """,
        """
        def train_step(x, y):
            pred = net(x)
            loss = criterion(pred, y)
            flor.log("loss", loss.item())
            loss.backward()
            optimizer.step()


        for epoch in range(epochs):
            for x, y in loader:
                train_step(x, y)
            scheduler.step()
        """,
    ),
    Pair(
        "two losses of alike names",
        """
        for batch in loader:
            d_loss = discriminator_loss(real, fake)
            d_loss.backward()
            g_loss = generator_loss(fake)
            g_loss.backward()  # <-
        """,
        """
        for batch in loader:
            loss_D = discriminator_loss(real, fake)
            loss_D.backward()
            loss_G = generator_loss(fake)
            flor.log("g", loss_G.item())
            loss_G.backward()
        """,
        line='flor.log("g", g_loss.item())',
    ),
    Pair(
        "a metric that only the newer version computes by calling the model",
        """
        for batch in loader:
            loss = criterion(model(batch.x), batch.y)
            loss.backward()
        """,
        """
        for batch in loader:
            loss = criterion(model(batch.x), batch.y)
            probs = model.predict(batch.x)
            flor.log("entropy", entropy(probs))
            loss.backward()
        """,
        why="`entropy` is not defined",
    ),
    Pair(
        "reading behind an augmented assignment",
        """
        total = 0
        for batch in loader:
            loss = fit(batch)
            total += loss
            report()  # <-
        """,
        """
        total = 0
        for batch in loader:
            loss = fit(batch)
            total += loss
            flor.log("total", total)
            report()
            save()
        """,
    ),
    Pair(
        "the old version draws between the neighbours and it does not matter",
        """
        for batch in loader:
            loss = fit(batch)
            noise = torch.randn(3)  # <-
            update(noise)
        """,
        """
        for batch in loader:
            loss = fit(batch)
            flor.log("loss", loss)
            update(batch)
        """,
    ),
    Pair(
        "an else branch of its own",
        """
        for batch in loader:
            if amp:
                loss = scaled(batch)
            else:
                loss = plain(batch)
                done(loss)  # <-
            step(loss)
        """,
        """
        for batch in loader:
            if amp:
                loss = scaled(batch)
            else:
                loss = plain(batch)
                flor.log("plain", loss)
                done(loss)
            step(loss)
        """,
    ),
    Pair(
        "under a try that came later",
        """
        for batch in loader:
            loss = fit(batch)
            step(loss)  # <-
        """,
        """
        for batch in loader:
            try:
                loss = fit(batch)
                flor.log("loss", loss)
                step(loss)
            except MemoryError:
                skip(batch)
        """,
    ),
    Pair(
        "in an except clause that the old version lacks",
        """
        for batch in loader:
            loss = fit(batch)
            step(loss)
        """,
        """
        for batch in loader:
            try:
                loss = fit(batch)
                step(loss)
            except MemoryError as error:
                flor.log("error", str(error))
        """,
        why="`try:`",
    ),
    Pair(
        "in a loop that only the newer version has",
        """
        def train(model, loader):
            prepare(model)
            finish(model)
        """,
        """
        def train(model, loader):
            prepare(model)
            while not model.is_ready():
                flor.log("norm", model.norm())
            finish(model)
        """,
        why="`while not model.is_ready():`",
    ),
    Pair(
        "async code",
        """
        async def collect(sources):
            async for item in sources:
                value = await item.read()
                await keep(value)  # <-
        """,
        """
        async def collect(sources):
            async for item in sources:
                value = await item.read()
                flor.log("value", value)
                await keep(value)
        """,
    ),
    Pair(
        "a case of a match",
        """
        match kind:
            case "sgd":
                rate = 0.1
                build(rate)  # <-
            case _:
                rate = 0.01
        """,
        """
        match kind:
            case "sgd":
                rate = 0.1
                flor.log("rate", rate)
                build(rate)
            case _:
                rate = 0.01
        """,
    ),
    Pair(
        "a decorated function whose name changed",
        """
        @torch.no_grad()
        def evaluate(net, loader):
            right = 0
            for x, y in loader:
                right += (net(x) == y).sum()
            share = right / len(loader)
            return share  # <-
        """,
        """
        @torch.inference_mode()
        def validation(net, loader):
            right = 0
            for x, y in loader:
                right += (net(x) == y).sum()
            share = right / len(loader)
            flor.log("share", share)
            return share
        """,
    ),
    Pair(
        "an f-string with a renamed variable",
        """
        for epoch in range(3):
            err = fit(epoch)
            check(err, epoch)  # <-
        """,
        """
        for epoch in range(3):
            loss = fit(epoch)
            flor.log("text", f"{epoch}: {loss:.3f}")
            check(loss, epoch)
        """,
        line='flor.log("text", f"{epoch}: {err:.3f}")',
    ),
    Pair(
        "the name means something else in the old version",
        """
        acc = Accumulator()
        for batch in loader:
            accuracy = fit(batch)
            acc.add(accuracy)
        """,
        """
        for batch in loader:
            acc = fit(batch)
            flor.log("acc", acc)
            meter.add(acc)
        """,
        line='flor.log("acc", accuracy)',
    ),
    Pair(
        "the value is deleted in the old version",
        """
        for batch in loader:
            out = model(batch)
            use(out)
            del out
            collect()
        """,
        """
        for batch in loader:
            out = model(batch)
            use(out)
            collect()
            flor.log("out", out)
            later()
        """,
        why="`out`",
    ),
    Pair(
        "a parameter that the old function lacks",
        """
        def fit(model):
            prepare(model)
            run(model)


        fit(build())
        """,
        """
        def fit(model, rate):
            prepare(model)
            flor.log("rate", rate)
            run(model)


        fit(build(), 0.1)
        """,
        why="a parameter of `fit`",
    ),
    Pair(
        "before the data is loaded nothing is known",
        """
        seed(0)
        x_train, y_train = load()
        model = build()  # <-
        fit(model, x_train)
        """,
        """
        seed(0)
        set_device()
        x_train, y_train = load()
        flor.log("size", len(x_train))
        model = build()
        fit(model, x_train)
        """,
    ),
    Pair(
        "a step of the optimizer is no log",
        """
        for batch in loader:
            loss = fit(batch)
            report(loss)
        """,
        """
        for batch in loader:
            loss = fit(batch)
            after = optimizer.step()
            flor.log("after", after)
            report(loss)
        """,
        why="optimizer.step()",
    ),
    Pair(
        "a random draw would shift all later ones",
        """
        for batch in loader:
            loss = fit(batch)
            report(loss)
        """,
        """
        for batch in loader:
            loss = fit(batch)
            sample = torch.randn(3)
            flor.log("sample", sample)
            report(loss)
        """,
        why="torch.randn()",
    ),
    Pair(
        "a walrus would bind what X uses later",
        """
        n = 3
        for batch in loader:
            loss = fit(batch)
            report(loss, n)
        """,
        """
        n = 3
        for batch in loader:
            loss = fit(batch)
            flor.log("n", (n := len(batch)))
            report(loss, n)
        """,
        why="`n`",
    ),
    Pair(
        "a call that acts inside the log call",
        """
        for batch in loader:
            loss = fit(batch)
            report(loss)
        """,
        """
        for batch in loader:
            loss = fit(batch)
            flor.log("step", optimizer.step())
            report(loss)
        """,
        why="optimizer.step()",
    ),
    Pair(
        "a multi-line call keeps its lines",
        """
        for epoch in range(3):
            loss = fit(epoch)
            report(loss)  # <-
        """,
        """
        for epoch in range(3):
            loss = fit(epoch)
            flor.log(
                "loss",  # the mean
                loss,
            )
            report(loss)
        """,
        line='flor.log(\n    "loss",  # the mean\n    loss,\n)',
    ),
    Pair(
        "epochs were called otherwise and counted from one",
        """
        for e in range(1, epochs + 1):
            err = fit(model, e)
            scheduler.step(err)  # <-
        """,
        """
        for epoch in range(epochs):
            loss = fit(model, epoch)
            flor.log("loss", loss)
            scheduler.step(loss)
        """,
        line='flor.log("loss", err)',
    ),
    Pair(
        "early stopping came later",
        """
        for epoch in range(3):
            score = validate(net)
            save(net)  # <-
        """,
        """
        for epoch in range(3):
            score = validate(net)
            if score > best:
                best = score
                patience = 0
            flor.log("score", score)
            save(net)
        """,
    ),
    Pair(
        "a guard reads what the old version lacks",
        """
        for step, batch in enumerate(loader):
            loss = fit(batch)
            report(loss)
        """,
        """
        for step, batch in enumerate(loader):
            loss = fit(batch)
            if step % args.log_every == 0:
                flor.log("loss", loss)
            report(loss)
        """,
        why="`args`",
    ),
    Pair(
        "the same lines in two functions",
        """
        def train(net, loader):
            for x in loader:
                out = net(x)
                keep(out)


        def test(net, loader):
            for x in loader:
                out = net(x)
                keep(out)  # <-
        """,
        """
        def train(net, loader):
            for x in loader:
                out = net(x)
                keep(out)


        def test(net, loader):
            for x in loader:
                out = net(x)
                flor.log("out", out)
                keep(out)
        """,
    ),
    Pair(
        "the statement after it moved into a branch",
        """
        start = clock()
        if resume:
            restore(model, path)
            model.load(path, strict=True)
        else:
            model = build()
        fit(model)
        """,
        """
        start = clock()
        flor.log("start", start)
        restore(model, path)
        prepare(model)
        """,
        why="it may be too",
    ),
    Pair(
        "only the old code has a with round its neighbours",
        """
        def update(boxes, masks):
            \"\"\"Add what a batch found.\"\"\"
            with timer():
                metrics.add(boxes)  # <-
                metrics.sub(masks)
        """,
        """
        def update(boxes, masks):
            \"\"\"Add what a batch found.\"\"\"
            flor.log("boxes", boxes)
            metrics.add(boxes)
            metrics.sub(masks)
        """,
    ),
    Pair(
        "one statement said in two before",
        """
        for m in modules:
            if adapted(m):
                m.lora_a.to_empty(device=device)
                m.lora_b.to_empty(device=device)
                m.check()  # <-
        """,
        """
        for m in modules:
            if adapted(m):
                m.to_empty(device=device)
                flor.log("size", m.size())
                m.check()
        """,
    ),
    Pair(
        "epochs were skipped before it or after it",
        """
        for epoch in range(epochs):
            for batch in loader:
                loss = train(batch)
            if epoch < 9:
                continue
            save(model)
        """,
        """
        for epoch in range(epochs):
            for batch in loader:
                loss = train(batch)
            flor.log("loss", loss)
            if loss < best:
                best = loss
        """,
        why="it could stand",
    ),
    Pair(
        "the loop gave what the old code took from an iterator",
        """
        for epoch in range(epochs):
            batches = iter(loader)
            for i in range(len(batches) // n):
                for _ in range(n):
                    batch = next(batches)
                    size = batch["x"].size(0)
                    x = Variable(batch["x"].type(Tensor))
                    optimizer.zero_grad()  # <-
                    optimizer.step()
                fake = generator(noise(size))
                loss = score(fake, x)
                loss.backward()
                other.step()
        """,
        """
        for epoch in range(epochs):
            for i, batch in enumerate(loader):
                size = batch["x"].size(0)
                x = Variable(batch["x"].type(Tensor))
                flor.log("y", batch["y"].mean())
                optimizer.zero_grad()
                optimizer.step()
        """,
    ),
    Pair(
        "a value changed before a neighbour that changed too",
        """
        for images in loader:
            valid = full(images.shape[0], 1.0)
            if cuda:
                images = images.cuda()
            real = Variable(images)
            train(real, valid)
        """,
        """
        for images in loader:
            valid = full(images.shape[0], 1.0)
            flor.log("mean", images.mean())
            real = Variable(images.type(Tensor))
            train(real, valid)
        """,
        why="it could stand",
    ),
    Pair(
        "only the statement after it is the same",
        """
        def step(scores, labels):
            roi_loss = build_loss(weights)
            cls_loss = roi_loss(scores, labels.cuda())
            scores.detach_()
            losses = [cls_loss, sum(weights)]  # <-
            return losses
        """,
        """
        def step(scores, labels):
            flor.log("scores", scores.mean())
            losses = [cls_loss, sum(weights)]
            return losses
        """,
    ),
    Pair(
        "the comment above it tells between which changes it stands",
        """
        opt = parse(argv)
        opt.seed = pick(opt)
        # what the optimizer takes  # <-
        opt.rate = scale(opt)
        model = build(opt)
        """,
        """
        opt = parse(argv)
        # what the optimizer takes
        flor.log("opt", vars(opt))
        model = build(opt)
        """,
    ),
    Pair(
        "what stands before it was written in another way",
        """
        env = make(name)
        env.seed(args.seed)
        model = Policy(args)  # <-
        train(model, env)
        """,
        """
        env = make(name)
        start(env, seed=args.seed)
        flor.log("spec", env.spec)
        learner = Critic(width)
        train(learner, env)
        """,
    ),
    Pair(
        "what stands after it was written in another way",
        """
        def act(state):
            state = tensor(state)
            probs = model(Variable(state))  # <-
            action = probs.multinomial()
            return action
        """,
        """
        def act(state):
            state = tensor(state)
            flor.log("state", state.mean())
            chances = Categorical(policy(state))
            action = probs.multinomial()
            return action
        """,
    ),
    Pair(
        "the old code calls a function that may hold it",
        """
        def descend(loss, optimizer):
            loss.backward()
            optimizer.step()

        for batch in loader:
            loss = train(batch)
            descend(loss, optimizer)
            count += 1
        """,
        """
        for batch in loader:
            loss = train(batch)
            flor.log("loss", loss.item())
            clip(model)
            loss.backward()
            optimizer.step()
            count += 1
        """,
        why="it may be inside the function that line",
    ),
    Pair(
        "its neighbours stand the other way round",
        """
        optimizer = SGD(model)
        for batch in loader:
            optimizer.zero_grad()
            for part in batch:
                loss = model(part)
                loss.backward()
            counter.update(batch)
        """,
        """
        optimizer = SGD(model)
        for batch in loader:
            for part in batch:
                loss = model(part)
                loss.backward()
            flor.log("step", optimizer.state)
            optimizer.zero_grad()
            counter.update(batch)
        """,
        why="stand in another order",
    ),
    Pair(
        "it stands in a new block between new code",
        """
        def fit(model, loader):
            for batch in loader:
                model.learn(batch)
            for batch in loader:
                score = model.check(batch)
                total.add(score)
        """,
        """
        def fit(model, loader):
            for batch in loader:
                model.learn(batch)
            while model.improves():
                extra = model.sample()
                flor.log("scale", model.scale)
                model.replay(extra)
                score = model.check(batch)
                total.add(score)
        """,
        why="the older version has another block",
    ),
    Pair(
        "a renamed definition that changed places with another statement",
        """
        for epoch in range(epochs):
            first_loss, first_score = train_epoch(model, data, crit, optimizer)
            update_rate(epoch)
            report(model)  # <-
        """,
        """
        for epoch in range(epochs):
            update_rate(epoch)
            train_loss, train_score = train_epoch(model, data, crit, optimizer)
            flor.log("score", train_score)
            report(model)
        """,
        line='flor.log("score", first_score)',
    ),
    Pair(
        "two blocks are spoken for nearly alike",
        """
        model = build()
        if args.resume:
            load(model, args.path)
            freeze(model, args.depth)
            warm(model, args.steps)
            check(model, args.seed)
        prepare(model, args.width)
        """,
        """
        model = build()
        if args.resume:
            load(model, args.path)
            freeze(model, args.depth)
            prepare(model, args.width)
            flor.log("model", model.norm)
            fill(buffer)
            warm(model, args.steps)
            check(model, args.seed)
        """,
        why="it may as well stand in another block",
    ),
    Pair(
        "the old code goes on with what all came before it",
        """
        parser = Parser()
        parser.add("epochs")
        parser.add("device")
        args = parser.parse()  # <-
        """,
        """
        parser = Parser()
        parser.add("epochs")
        flor.log("options", parser.count())
        args = parser.parse()
        """,
    ),
    Pair(
        "the old code goes on with a branch that may hold it",
        """
        for step, batch in enumerate(loader):
            loss = train(batch)
            report(step, loss)
            if verbose:
                record(loss.item())
        """,
        """
        for step, batch in enumerate(loader):
            loss = train(batch)
            if step % interval == 0:
                report(step, loss)
                flor.log("loss", loss.item())
        """,
        why="the statement may belong in it",
    ),
    Pair(
        "both neighbours are new and the old code changes what it reads",
        """
        data = read(path)
        data = shuffle(data)
        for row in table:
            learn(row)
            record(row)  # <-
        """,
        """
        data = read(path)
        for row in table:
            learn(row)
            note(row)
            flor.log("row", row.mean())
            tell(row)
            record(row)
        """,
    ),
    Pair(
        "its neighbours are far apart",
        """
        args = parse()
        env = make(args.env)
        seed_all(args.seed)
        model = build(env.space)
        optimizer = SGD(model.parameters)
        loader = load(args.path)
        writer = open_writer(args.out)
        train(model, optimizer, loader, writer)
        """,
        """
        args = parse()
        flor.log("seed", args.seed)
        writer = open_writer(args.out)
        env = make(args.env)
        seed_all(args.seed)
        model = build(env.space)
        optimizer = SGD(model.parameters)
        loader = load(args.path)
        train(model, optimizer, loader, writer)
        """,
        why="are far apart there",
    ),
    Pair(
        "what follows it was moved away from the rest",
        """
        args = parse()
        best = Best(args)
        model = build(args)
        data = read(args)
        check(model, data)
        warm(model, data)
        run(best, model)
        """,
        """
        args = parse()
        model = build(args)
        data = read(args)
        check(model, data)
        warm(model, data)
        start(args.seed)
        flor.log("width", args.width)
        best = Best(args)
        run(best, model)
        """,
        why="the text before it does not",
    ),
    Pair(
        "a block came round it, and the lines on both sides are the same",
        """
        for batch in loader:
            loss = train(batch)
            update(loss)  # <-
            history.append(loss)
        """,
        """
        for batch in loader:
            loss = train(batch)
            with timer:
                if batch.valid:
                    flor.log("loss", loss.item())
                    note(batch)
                    update(loss)
            history.append(loss)
        """,
    ),
]


def code(text: str) -> str:
    return "import flordb as flor\n" + textwrap.dedent(text)


@pytest.mark.parametrize("pair", PAIRS, ids=[pair.name for pair in PAIRS])
def test_hard_pair(pair: Pair) -> None:
    check_pair(pair)


def check_pair(pair: Pair) -> None:
    """Check that the statement goes where the old version's mark says, or is refused."""
    marked, new = code(pair.old), code(pair.new)
    old = marked.replace("  " + MARK, "")
    lineno = next(n for n, row in enumerate(new.splitlines(), 1) if "flor.log(" in row)
    answer = propagate({"train.py": old}, {"train.py": new}, Site("train.py", lineno))
    if pair.why:
        assert isinstance(answer, Refusal), answer.files["train.py"]
        assert pair.why in answer.reason
        return
    assert isinstance(answer, Patch), answer
    statement = pair.line or new.splitlines()[lineno - 1].strip()
    if MARK not in marked:
        assert statement in answer.files["train.py"]
        return
    expected = []
    for row in marked.splitlines():
        if row.endswith(MARK):
            expected.append(textwrap.indent(statement, row[: len(row) - len(row.lstrip())]))
        expected.append(row.removesuffix("  " + MARK))
    found = answer.files["train.py"]
    assert found == "\n".join(expected) + "\n"
