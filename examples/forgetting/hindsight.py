"""The statements that nobody had thought of in the summer, each a line for the newest script."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Statement:
    """A ``flor.log`` that is added below a line of ``train.py``."""

    name: str
    below: str
    text: str

    def add_to(self, script: Path) -> tuple[int, str]:
        """Insert the statement; returns the number of its line and the line."""
        lines = script.read_text().splitlines(keepends=True)
        at = next(number for number, line in enumerate(lines) if line.strip() == self.below)
        indent = lines[at][: -len(lines[at].lstrip())]
        lines.insert(at + 1, f"{indent}{self.text}\n")
        script.write_text("".join(lines))
        return at + 2, lines[at + 1].rstrip()


# After the training: how well were eights read in the end?
F1_EIGHT = Statement(
    name="f1_eight",
    below='flor.log("f1_score", f1_score(test_labels, predicted, average="macro"))',
    text='flor.log("f1_eight", f1_score(test_labels, predicted, labels=[8], average="macro"))',
)

# In the epoch's body: how many eights were found after each epoch?
RECALL_EIGHT = Statement(
    name="recall_eight",
    below='flor.log("accuracy", accuracy)',
    text='flor.log("recall_eight", (predicted[test_labels == 8] == 8).float().mean().item())',
)

# In the nested loop: how steep was it?
GRAD_NORM = Statement(
    name="grad_norm",
    below="loss.backward()",
    text=(
        'flor.log("grad_norm", '
        "torch.cat([p.grad.flatten() for p in net.parameters()]).norm().item())"
    ),
)
