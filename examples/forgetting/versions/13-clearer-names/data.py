"""The pictures: scikit-learn's handwritten digits, labelled batch by batch."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset


def load_images():
    """All pictures, 1 x 8 x 8 with values from 0 to 1, and their labels."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    return images, torch.tensor(digits.target)


def load_batch(date, batch_size):
    """The batch that arrived on a date; it names its pictures by their rows."""
    images, labels = load_images()
    rows = np.loadtxt(f"batches/{date}.txt", dtype=int)
    return DataLoader(TensorDataset(images[rows], labels[rows]), batch_size, shuffle=True)


def load_test():
    """Every fourth picture is kept for the test."""
    images, labels = load_images()
    return images[::4], labels[::4]


def augment(images):
    """Shift the pictures by up to a pixel, and add a little noise."""
    dy, dx = torch.randint(-1, 2, (2,)).tolist()
    return images.roll((dy, dx), dims=(2, 3)) + 0.05 * torch.randn_like(images)
