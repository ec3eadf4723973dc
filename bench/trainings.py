"""Nine trainings of 7 to 23 seconds (on two quiet cores), in the shapes in which people train.

Each has a set-up, a loop over epochs with a loop over steps, a validation after each epoch and a
test at the end; and statements ``flor.log("truth:…")`` that a run is recorded without: one for each
scan. Six are those of `bench/record.py`.
"""

from __future__ import annotations

import re

from bench.record import HEADER, WORKLOADS

TRAIN = """
opt_parameters = [p for group in opt.param_groups for p in group["params"]]

def validated(steps):
    net.eval()
    with torch.no_grad():
        found = sum(loss_of(step).item() for step in range(steps)) / steps
    net.train()
    return found

flor.log("truth:before", sum(p.double().sum().item() for p in net.parameters()))
with flor.checkpointing(net=net, opt=opt):
    for epoch in flor.loop("epoch", range(EPOCHS)):
        for step in flor.loop("step", range(STEPS)):
            loss = loss_of(step)
            opt.zero_grad()
            loss.backward()
            opt.step()
            flor.log("loss", loss.item())
            flor.log("truth:gradient", sum(p.grad.norm().item() for p in opt_parameters))
        value = validated(max(1, STEPS // 2))
        flor.log("validated", value)
        flor.log("truth:validated_again", value)
tested = validated(STEPS)
flor.log("tested", tested)
flor.log("truth:tested_again", tested)
"""
# The time of a run of each is what its epochs make of it.
EPOCHS = {
    "small CNN, short epochs": 60,
    "ResNet-20 with BatchNorm": 12,
    "transformer, short epochs": 4,
    "seq2seq GRU": 14,
    "adversarial fine-tune": 30,
    "autoencoder with EMA": 20,
}
LOADER = (
    HEADER
    + """
from torch.utils.data import DataLoader, TensorDataset
torch.set_num_threads(1)
X = torch.randn(20000, 256)
Y = (X[:, :64].sum(1) > 0).long()
train_set, held_out = TensorDataset(X[:16000], Y[:16000]), TensorDataset(X[16000:], Y[16000:])
loader = DataLoader(train_set, batch_size=32, shuffle=True)
validation = DataLoader(held_out, batch_size=500)
net = nn.Sequential(
    nn.Linear(256, 256), nn.ReLU(), nn.Dropout(0.2),
    nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 2),
)
opt = torch.optim.AdamW(net.parameters(), lr=1e-3)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 20)

def accuracy():
    net.eval()
    with torch.no_grad():
        right = sum((net(x).argmax(1) == y).sum().item() for x, y in validation)
    net.train()
    return right / len(held_out)

flor.log("truth:before", X.sum().item())
for epoch in flor.loop("epoch", range(14)):
    for x, y in flor.loop("step", loader):
        loss = F.cross_entropy(net(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        flor.log("loss", loss.item())
        flor.log("truth:gradient", net[0].weight.grad.norm().item())
    scheduler.step()
    acc = accuracy()
    flor.log("acc", acc)
    flor.log("truth:acc_again", acc)
final = accuracy()
flor.log("final", final)
flor.log("truth:final_again", final)
"""
)
TRAINER = (
    HEADER
    + """
torch.set_num_threads(1)

class Model(nn.Module):
    def __init__(self, words=400, size=96):
        super().__init__()
        self.embed = nn.Embedding(words, size)
        self.lstm = nn.LSTM(size, size, batch_first=True)
        self.out = nn.Linear(size, words)

    def forward(self, x):
        return self.out(self.lstm(self.embed(x))[0])

class Trainer:
    def __init__(self, epochs):
        self.epochs = epochs
        self.text = torch.randint(400, (120, 32, 25))
        self.model = Model()
        self.opt = torch.optim.Adam(self.model.parameters())
        self.history = []

    def loss(self, batch):
        scores = self.model(batch[:, :-1])
        return F.cross_entropy(scores.reshape(-1, 400), batch[:, 1:].reshape(-1))

    def fit(self):
        flor.log("truth:before", self.model.embed.weight.sum().item())
        for self.epoch in flor.loop("epoch", range(self.epochs)):
            self.train_epoch()
            held_out = self.evaluate()
            self.history.append(held_out)
            flor.log("held_out", held_out)
            flor.log("truth:held_out_again", held_out)

    def train_epoch(self):
        for at in flor.loop("step", range(100)):
            loss = self.loss(self.text[at])
            self.opt.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.opt.step()
            flor.log("loss", loss.item())
            flor.log("truth:norm", norm.item())

    def evaluate(self):
        with torch.no_grad():
            return sum(self.loss(self.text[at]).item() for at in range(100, 120)) / 20

if __name__ == "__main__":
    trainer = Trainer(epochs=9)
    trainer.fit()
    end = trainer.evaluate()
    flor.log("end", end)
    flor.log("truth:end_again", end)
"""
)
PARTIAL_FIT = """
import flordb as flor
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import PolynomialFeatures

data = load_digits()
x = PolynomialFeatures(2, include_bias=False).fit_transform(data.data / 16)
train_x, test_x, train_y, test_y = train_test_split(x, data.target, random_state=0)
rng = np.random.default_rng(0)
model = SGDClassifier(loss="log_loss", random_state=0)
classes = np.arange(10)
flor.log("truth:before", float(train_x.sum()))
for epoch in flor.loop("epoch", range(25)):
    order = rng.permutation(len(train_x))
    for start in flor.loop("batch", range(0, len(order), 32)):
        batch = order[start : start + 32]
        model.partial_fit(train_x[batch], train_y[batch], classes=classes)
        flor.log("truth:norm", float(np.abs(model.coef_).sum()))
    loss = log_loss(test_y, model.predict_proba(test_x))
    flor.log("loss", loss)
    flor.log("truth:loss_again", loss)
score = model.score(train_x, train_y)
flor.log("score", score)
flor.log("truth:score_again", score)
"""


def texts() -> dict[str, dict[str, str]]:
    """Each training's files, by its name: one script."""
    found = {"loader": LOADER, "trainer": TRAINER, "partial_fit": PARTIAL_FIT}
    for name, epochs in EPOCHS.items():
        text = re.sub(r"(?<=EPOCHS, STEPS = )\d+", str(epochs), WORKLOADS[name])
        file = re.sub(r"\W+", "_", name.split(",")[0]).lower()
        found[file] = HEADER + text + TRAIN
    return {name: {f"{name}.py": text} for name, text in found.items()}
