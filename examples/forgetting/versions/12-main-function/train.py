"""Goes on learning to read handwritten digits: the last weights, the newest labelled batch."""

from pathlib import Path

import torch
from sklearn.metrics import f1_score
from torch import nn

import flordb as flor
from data import augment, load_batch, load_test
from evaluate import validate
from model import make_net


def main():
    torch.set_num_threads(1)
    date = flor.arg("date", "2023-08-30")
    batch = flor.arg("batch", "2023-08-28")
    start = flor.arg("start", "2023-08-16")
    epochs = flor.arg("epochs", 5)
    lr = flor.arg("lr", 0.0005)
    batch_size = flor.arg("batch_size", 16)
    hidden = flor.arg("hidden", 64)
    weight_decay = flor.arg("weight_decay", 0.01)
    dropout = flor.arg("dropout", 0.2)
    torch.manual_seed(flor.arg("seed", 81))

    trainloader = load_batch(batch, batch_size)
    test_images, test_labels = load_test()

    net = make_net(hidden, dropout)
    net.load_state_dict(torch.load(f"weights/{start}.pt"))
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)

    with flor.checkpointing(model=net, optimizer=optimizer, scheduler=scheduler):
        for epoch in flor.loop("epoch", range(epochs)):
            net.train()
            for x, y in flor.loop("step", trainloader):
                optimizer.zero_grad()
                loss = criterion(net(augment(x)), y)
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), max_norm=5.0)
                optimizer.step()
                flor.log("loss", loss.item())
            flor.log("lr_now", scheduler.get_last_lr()[0])
            scheduler.step()

            predicted, accuracy = validate(net, test_images, test_labels)
            flor.log("accuracy", accuracy)

    flor.log("f1_score", f1_score(test_labels, predicted, average="macro"))

    Path("weights").mkdir(exist_ok=True)
    torch.save(net.state_dict(), f"weights/{date}.pt")


if __name__ == "__main__":
    main()
