"""Flow matching: the path, the time distribution, and that it learns a distribution it can sample from."""

import torch
from torch import nn

from model.flow import euler, interpolate, sample_time, target_velocity


def test_path_starts_at_noise_and_ends_at_actions() -> None:
    noise, actions = torch.randn(2, 4, 7), torch.randn(2, 4, 7)
    torch.testing.assert_close(interpolate(noise, actions, torch.zeros(2), 0.001), noise)
    end = interpolate(noise, actions, torch.ones(2), 0.001)
    torch.testing.assert_close(end, actions + 0.001 * noise)


def test_velocity_is_the_derivative_of_the_path() -> None:
    noise, actions = torch.randn(1, 2, 7), torch.randn(1, 2, 7)
    early, late = (interpolate(noise, actions, torch.tensor([t]), 0.001) for t in (0.25, 0.75))
    torch.testing.assert_close((late - early) / 0.5, target_velocity(noise, actions, 0.001))


def test_time_favours_noise_and_stays_below_one() -> None:
    time = sample_time((20_000,), torch.Generator().manual_seed(0))
    assert float(time.min()) >= 0 and float(time.max()) <= 0.999
    assert abs(float(time.mean()) - 0.999 * 0.4) < 0.01  # 1 - mean of Beta(1.5, 1)


def test_exact_velocity_transports_noise_to_the_target() -> None:
    target = torch.randn(3, 2, 7)
    noise = torch.randn(3, 2, 7)
    reached = euler(lambda x, t: target - noise, noise, steps=10)
    torch.testing.assert_close(reached, target)


def test_learns_a_two_mode_distribution() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return net(torch.cat([x.flatten(1), t[:, None]], -1))[:, None]

    for _ in range(1500):
        actions = (torch.randint(0, 2, (256, 1, 1)) * 2 - 1) + 0.05 * torch.randn(256, 1, 1)
        noise, time = torch.randn(256, 1, 1), sample_time((256,))
        predicted = velocity(interpolate(noise, actions, time, 0.001), time)
        loss = (predicted - target_velocity(noise, actions, 0.001)).pow(2)
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
    samples = euler(velocity, torch.randn(500, 1, 1), 20).flatten()
    assert 0.35 < float((samples > 0).float().mean()) < 0.65
    assert float((samples.abs() - 1).abs().mean()) < 0.25
