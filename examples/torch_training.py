"""A training script for PyTorch, without fusedstep; it goes on from its checkpoint where there is one."""

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn, optim

torch.manual_seed(0)
X, y = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
X = X.float().reshape(-1, 1, 8, 8) / 16
X_train, y_train, X_test, y_test = X[:1400], y[:1400], X[1400:], y[1400:]
features = [nn.Conv2d(1, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten()]
model = nn.Sequential(*features, nn.Dropout(0.25), nn.Linear(32 * 6 * 6, 10))
optimizer = optim.AdamW(model.parameters(), lr=3e-3)
scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
checkpoint = Path("digits.pt")
if checkpoint.exists():
    for name, state in torch.load(checkpoint).items():
        parts[name].load_state_dict(state)

for _ in range(5):
    model.train()
    for rows in torch.randperm(len(X_train)).split(64):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X_train[rows]), y_train[rows])
        loss.backward()
        optimizer.step()
    scheduler.step()
    model.eval()
    accuracy = (model(X_test).argmax(1) == y_test).float().mean()
    print(f"epoch {scheduler.last_epoch}: loss {loss:.3f}, test accuracy {accuracy:.3f}")
torch.save({name: part.state_dict() for name, part in parts.items()}, checkpoint)
