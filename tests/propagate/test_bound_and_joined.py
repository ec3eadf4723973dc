"""Old versions in which a name is bound by more than a plain assignment, or blocks moved."""

from __future__ import annotations

import pytest

from tests.propagate.test_hard_pairs import Pair, check_pair

PAIRS = [
    Pair(
        "names that the script's own main guard binds",
        """
        if __name__ == "__main__":
            args = parse()
            seed_all(args.seed)
        name = run_name(args.seed)
        start(name)  # <-
        """,
        """
        if __name__ == "__main__":
            args = parse()
            seed_all(args.seed)
            name = run_name(args.seed)
            flor.log("rate", args.rate)
            start(name)
        """,
    ),
    Pair(
        "a name bound under a condition that the code goes on to read",
        """
        if args.resume:
            model = load(args.path)
        elif args.fresh:
            model = build()
        optimizer = make(args)
        fit(model, optimizer)  # <-
        """,
        """
        model = build()
        optimizer = make(args)
        flor.log("size", model.size)
        fit(model, optimizer)
        """,
    ),
    Pair(
        "a name bound under a condition that the code has read before",
        """
        if args.resume:
            model = load(args.path)
        elif args.fresh:
            model = build()
        show(model)
        optimizer = make(args)
        fit(optimizer)  # <-
        """,
        """
        model = build()
        optimizer = make(args)
        flor.log("size", model.size)
        fit(optimizer)
        """,
    ),
    Pair(
        "what is read under a condition only proves nothing",
        """
        if args.resume:
            model = load(args.path)
        optimizer = make(args)
        fit(optimizer, model if args.resume else None)
        """,
        """
        model = build()
        optimizer = make(args)
        flor.log("size", model.size)
        fit(optimizer, model if args.resume else None)
        """,
        why="`model` is not bound on every way",
    ),
    Pair(
        "the program ends where the name is missing",
        """
        if args.resume:
            model = load(args.path)
        else:
            sys.exit("nothing to resume")
        optimizer = make(args)
        fit(optimizer)  # <-
        """,
        """
        model = load(args.path)
        optimizer = make(args)
        flor.log("size", model.size)
        fit(optimizer)
        """,
    ),
    Pair(
        "a function that stands below the class that calls it",
        """
        class Trainer:
            def validate(self):
                score = self.model.check(self.data)
                keep(self.model)  # <-


        def keep(model):
            save(model)


        def spell(score):
            return str(score)
        """,
        """
        class Trainer:
            def validate(self):
                score = self.model.check(self.data)
                flor.log("score", spell(score))
                keep(self.model)


        def keep(model):
            save(model)


        def spell(score):
            return str(score)
        """,
    ),
    Pair(
        "the loop over epochs went, and most of the loop inside it is new",
        """
        def train(self):
            for epoch in range(self.epochs):
                for i, (images, targets) in enumerate(self.loader):
                    adjust(self.optimizer, epoch)
                    images = images.to(device)
                    targets = targets.to(device)
                    outputs = self.model(images)
                    loss = self.criterion(outputs, targets)
                    loss.backward()
                    self.optimizer.step()  # <-
                    print(epoch, i)
                self.validate(epoch)
        """,
        """
        def train(self):
            for iteration, (images, targets, _) in enumerate(self.loader):
                iteration = iteration + 1
                self.scheduler.step()
                images = images.to(self.device)
                targets = targets.to(self.device)
                outputs = self.model(images)
                parts = self.criterion(outputs, targets)
                losses = sum(loss for loss in parts.values())
                reduced = reduce_all(parts)
                losses.backward()
                flor.log("rate", self.optimizer.rate)
                self.optimizer.step()
                eta = (time.time() - begun) / iteration
                if iteration % self.every == 0:
                    logger.info(eta)
                    logger.info(sum(reduced.values()))
        """,
    ),
    Pair(
        "a guarded piece of a loop went into a function",
        """
        class Engine:
            def train(self, loader):
                meter = Meter()
                for index, data in enumerate(loader):
                    images, names = self.parse(data)
                    if self.on_gpu:
                        images = images.cuda()  # <-
                    outputs = self.model(images)
                    meter.update(outputs)
        """,
        """
        class Engine:
            def forward(self, data):
                images, names = self.parse(data)
                if self.on_gpu:
                    flor.log("shape", images.shape)
                    images = images.cuda()
                outputs = self.model(images)
                return outputs
        """,
    ),
    Pair(
        "a guard with an import in it went to the other side",
        """
        args = parse()
        name = run_name(args)
        writer = Writer(name)
        writer.text("arguments", str(args))
        if args.track:
            import tracker
            writer = tracker.Writer(name)  # <-
        seed_all(args.seed)
        """,
        """
        args = parse()
        name = run_name(args)
        if args.track:
            import tracker
            flor.log("home", tracker.home)
            tracker.begin(args.project)
        writer = Writer(name)
        writer.text("arguments", str(args))
        seed_all(args.seed)
        """,
    ),
    Pair(
        "the older version may go on with another value",
        """
        args = parse()
        name = run_name(args)
        writer = Writer(name)
        if args.tracked:  # <-
            begin(args.project, name)
            writer = Tracker(name)
        seed_all(args.seed)
        """,
        """
        args = parse()
        name = run_name(args)
        if args.tracked:
            begin(args.project, name)
        writer = Writer(name)
        flor.log("folder", writer.folder)
        seed_all(args.seed)
        """,
    ),
    Pair(
        "what is read is defined further down than the neighbours were then",
        """
        args = parse()
        env = make(args.env)
        seed_all(args.seed)
        name = stamp() + str(args.run)
        note("arguments", args)  # <-
        learn(env)
        """,
        """
        args = parse()
        name = "/".join([args.env, args.run, now()])
        flor.log("length", len(name))
        note("arguments", args)
        env = make(args.env)
        seed_all(args.seed)
        learn(env)
        """,
    ),
    Pair(
        "the loop was a function of its own, whose parameter was renamed with it",
        """
        def collect(queries, model, found_names):
            for images, names in queries:
                features = model(images)
                for name in names:  # <-
                    found_names.append(name)


        def test(model, queries):
            features, found_names, cameras = [], [], []
            collect(queries, model, found_names)
            found_names = asarray(found_names)
            return score(features, found_names, cameras)
        """,
        """
        def test(model, queries):
            features, q_names, cameras = [], [], []
            for images, names in queries:
                features = model(images)
                flor.log("many", len(q_names))
                q_names.extend(names)
            q_names = asarray(q_names)
            return score(features, q_names, cameras)
        """,
        line='flor.log("many", len(found_names))',
    ),
    Pair(
        "the loop went over slices before there was a loader",
        """
        def test():
            total = 0
            right = 0
            for i in range(0, data.size(0), SIZE):
                print("testing", i, data.size(0))
                batch[:] = data[i : i + SIZE]
                output = model(batch)
                total += criterion(output, wanted[i])
                right += guess(output).eq(wanted[i]).sum()  # <-
            total /= data.size(0) / SIZE
        """,
        """
        def test():
            total = 0
            right = 0
            for inputs, target in loader:
                if args.cuda:
                    inputs, target = inputs.cuda(), target.cuda()
                output = model(inputs)
                total += F.nll_loss(output, target).item()
                flor.log("output", output.mean())
                right += guess(output).eq(target).sum()
            total /= len(loader)
        """,
    ),
    Pair(
        "automatic mixed precision came round most of the loop",
        """
        def validate(self):
            stats = Stats()
            for batch in self.batches:
                src = prepare(batch, self.side)
                state = make_state(batch, (0, batch.size))
                _, found = self.loss(batch, **state)
                stats.add(found)  # <-
            self.model.train()
            return stats
        """,
        """
        def validate(self):
            stats = Stats()
            with no_grad():
                for batch in self.batches:
                    src, lengths = batch.src, batch.lengths
                    with autocast(enabled=self.fast):
                        outputs = self.model(src, lengths)
                        _, found = self.loss(batch, outputs)
                        flor.log("found", found)
                        stats.update(found)
            self.model.train()
            return stats
        """,
    ),
    Pair(
        "the script became a function, and what stood before is another thing now",
        """
        options = read_options()
        greet("trainer")
        limit_threads(2)
        use_cache(True)
        os.makedirs(options.folder)  # <-
        os.makedirs("checkpoints")
        net = Net(options.width)
        learn(net)
        """,
        """
        def run():
            options = read_options()
            logger = Logger(options.logs)
            flor.log("folder", options.folder)
            os.makedirs(options.folder)
            os.makedirs("checkpoints")
            net = Net(options.width)
            learn(net)


        if __name__ == "__main__":
            run()
        """,
    ),
    Pair(
        "a definition under a condition right before does not decide, what follows does",
        """
        model = build(args)
        if args.fast:
            model = speed_up(model)
        if args.compiled:
            model = compile_all(model)
        model = spread(model)  # <-
        fit(model)
        """,
        """
        model = build(args)
        if args.fast:
            model = speed_up(model)
        flor.log("size", model.size)
        model = spread(model)
        fit(model)
        """,
    ),
]


@pytest.mark.parametrize("pair", PAIRS, ids=[pair.name for pair in PAIRS])
def test_bound_or_joined(pair: Pair) -> None:
    check_pair(pair)
