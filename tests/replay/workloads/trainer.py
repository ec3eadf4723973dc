"""A class with the loop in a method, a module of the repository, generators of its own."""
# unseeded

import flordb as flor
import numpy as np
import torch
from trainer_lib import Net, Noise, count, reset

torch.set_num_threads(1)


class Trainer:
    def __init__(self, epochs):
        self.epochs = epochs
        self.noise = Noise(5)
        self.net = Net()
        self.opt = torch.optim.AdamW(self.net.parameters(), lr=0.05)
        self.data = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
        self.losses = []
        self.step = 0
        self.log_file = open("log.txt", "w")

    def fit(self):
        for self.epoch in flor.loop("epoch", range(self.epochs)):
            for self.batch in flor.loop("step", range(0, 40, 8)):
                self.train_step(self.batch)
            flor.log("truth:epoch", np.mean(self.losses[-5:]))
            self.log_file.write(f"{self.epoch}\n")
        return self

    def train_step(self, at):
        x = torch.from_numpy(self.data[at : at + 8] + self.noise.draw((8, 4)))
        loss = (self.net(x) - x.sum(1, keepdim=True)).pow(2).mean()
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        self.step += count()
        self.losses.append(loss.item())
        flor.log("truth:loss", loss.item() + self.step)


if __name__ == "__main__":
    reset(2)
    trainer = Trainer(4).fit()
    flor.log("truth:calls", trainer.net.calls)
    flor.log("truth:noise", trainer.noise.rng.bit_generator.state["state"]["state"])
    flor.log("truth:losses", [float(v) for v in trainer.losses])
