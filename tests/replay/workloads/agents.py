"""Reinforcement learning as people write it: a replay buffer with a deque and NumPy's Generator, a
training loop that is a generator, scripted modules, a while loop with flor.iteration."""

import random
from collections import defaultdict, deque, namedtuple
from typing import List

import flordb as flor
import numpy as np
import torch
from torch import nn

torch.set_num_threads(1)
random.seed(5)
np.random.seed(5)
torch.manual_seed(5)
rng = np.random.default_rng(17)
Move = namedtuple("Move", "state action reward next")


class Buffer:
    def __init__(self, size, rng):
        self.items = deque(maxlen=size)
        self.rng = rng
        self.added = 0

    def add(self, move):
        self.items.append(move)
        self.added += 1

    def sample(self, count):
        chosen = self.rng.choice(len(self.items), size=count, replace=False)
        return [self.items[i] for i in chosen]


class World:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.place = 0.0

    def reset(self):
        self.place = self.random.uniform(-1, 1)
        return self.place

    def step(self, action):
        self.place += 0.3 * (action - 1) + self.random.gauss(0, 0.05)
        return self.place, -abs(self.place), abs(self.place) > 2


class Q(nn.Module):
    runs: int
    sizes: List[int]

    def __init__(self):
        super().__init__()
        self.runs = 0
        self.sizes = [0]
        self.one = nn.Linear(1, 12)
        self.two = nn.Linear(12, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.calls += 1
        self.runs += 1
        if self.runs % 50 == 0:
            self.sizes.append(x.size(0))
        return self.two(torch.tanh(self.one(x)))


def linear(start, end, steps):
    for number in range(steps):
        yield start + (end - start) * number / steps
    while True:
        yield end


q = torch.jit.script(Q())
target = Q()
target.load_state_dict(q.state_dict())
opt = torch.optim.Adam(q.parameters(), lr=0.02)
buffer = Buffer(120, rng)
world = World(3)
visits = defaultdict(int)
epsilon = 1.0
rewards = deque(maxlen=5)
losses = np.zeros(8)


def act(state):
    if rng.random() < epsilon:
        return int(rng.integers(3))
    with torch.no_grad():
        return int(q(torch.tensor([[state]])).argmax())


def learn(count):
    moves = buffer.sample(count)
    states = torch.tensor([[m.state] for m in moves])
    nexts = torch.tensor([[m.next] for m in moves])
    rewards_ = torch.tensor([m.reward for m in moves])
    actions = torch.tensor([m.action for m in moves])
    with torch.no_grad():
        wanted = rewards_ + 0.9 * target(nexts).max(1).values
    loss = nn.functional.smooth_l1_loss(q(states).gather(1, actions[:, None])[:, 0], wanted)
    opt.zero_grad()
    loss.backward()
    opt.step()
    return loss.item()


for episode in flor.loop("episode", range(8)):
    state, whole, done, moves = world.reset(), 0.0, False, 0
    for step in flor.loop("move", range(15)):
        action = act(state)
        following, reward, done = world.step(action)
        buffer.add(Move(state, action, reward, following))
        visits[action] += 1
        whole += reward
        state = following
        moves += 1
        if len(buffer.items) >= 16:
            losses[episode] += learn(8)
        flor.log("truth:action", [action, round(epsilon, 6)])
        flor.log("truth:loss", losses[episode])
        if done:
            break
    rewards.append(whole)
    epsilon = max(0.1, epsilon * 0.8)
    if episode % 3 == 2:
        target.load_state_dict(q.state_dict())
    flor.log("reward", whole)
    flor.log("truth:mean", sum(rewards) / len(rewards))
    flor.log("truth:visits", sorted(visits.items()))
    flor.log("truth:buffer", [len(buffer.items), buffer.added, buffer.items[0].state])
    flor.log("truth:calls", [int(q.calls), int(target.calls), q.runs, q.sizes])
    flor.log("truth:moves", [moves, done, epsilon])
    flor.log("truth:weights", q.two.weight.sum().item())
flor.log("truth:losses", losses.tolist())
flor.log("truth:draw", [float(rng.random()), world.random.random(), random.random()])
flor.log("truth:sampled", [m.reward for m in buffer.sample(3)])
