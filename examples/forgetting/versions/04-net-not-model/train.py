"""Goes on learning to read handwritten digits: the last weights, the newest labelled batch."""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import f1_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import flordb as flor

torch.set_num_threads(1)

date = flor.arg("date", "2023-07-05")
batch = flor.arg("batch", "2023-07-03")
start = flor.arg("start", "2023-06-21")
epochs = flor.arg("epochs", 5)
lr = flor.arg("lr", 0.006)
batch_size = flor.arg("batch_size", 16)
hidden = flor.arg("hidden", 64)
torch.manual_seed(flor.arg("seed", 81))

# Every fourth picture is kept for the test; a batch names its pictures by their rows.
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
labels = torch.tensor(digits.target)
rows = np.loadtxt(f"batches/{batch}.txt", dtype=int)
trainset = TensorDataset(images[rows], labels[rows])
trainloader = DataLoader(trainset, batch_size=batch_size, shuffle=True)
test_images, test_labels = images[::4], labels[::4]

net = nn.Sequential(
    nn.Conv2d(1, 32, kernel_size=3, padding=1),
    nn.ReLU(),
    nn.Conv2d(32, 64, kernel_size=3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(64 * 4 * 4, hidden),
    nn.ReLU(),
    nn.Linear(hidden, 10),
)
net.load_state_dict(torch.load(f"weights/{start}.pt"))
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)

with flor.checkpointing(model=net, optimizer=optimizer):
    for epoch in flor.loop("epoch", range(epochs)):
        net.train()
        for x, y in flor.loop("step", trainloader):
            optimizer.zero_grad()
            loss = criterion(net(x), y)
            loss.backward()
            optimizer.step()
            flor.log("loss", loss.item())

        net.eval()
        with torch.no_grad():
            predicted = net(test_images).argmax(dim=1)
        accuracy = (predicted == test_labels).float().mean().item()
        flor.log("accuracy", accuracy)

flor.log("f1_score", f1_score(test_labels, predicted, average="macro"))

Path("weights").mkdir(exist_ok=True)
torch.save(net.state_dict(), f"weights/{date}.pt")
