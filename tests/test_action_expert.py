"""The action expert: one prefix for all Euler steps equals a joint pass, FiLM starts neutral, places are supervised."""

from dataclasses import replace

import torch

from model.action_expert import ActionExpert, place_losses, time_embedding
from model.config import ActionConfig, DecoderConfig, InstructVLAConfig, VisionConfig

TINY = InstructVLAConfig(
    queries=3,
    vision=VisionConfig(height=56, width=84, dim=32, layers=3, heads=2, trunk_layers=1),
    decoder=DecoderConfig(vocab=40, dim=24, layers=2, heads=2, kv_heads=1, mlp=48),
    action=ActionConfig(dim=32, layers=2, heads=2, mlp=64, chunk=4),
)


def inputs(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    rows, columns = TINY.vision.grid
    return torch.randn(batch, 1 + rows * columns, 32), torch.randn(batch, 3, 24), torch.randn(batch, 8) * 0.1


def expert() -> ActionExpert:
    torch.manual_seed(0)
    return ActionExpert(TINY).eval()


def joint_velocity(
    model: ActionExpert, context_input: torch.Tensor, noisy: torch.Tensor, time: torch.Tensor, seen: int
) -> torch.Tensor:
    """Slow reference: prefix and actions in one pass under the explicit block-causal mask."""
    length, chunk = context_input.shape[1], noisy.shape[1]
    when = time_embedding(time, TINY.action.dim)[:, None].expand(-1, chunk, -1)
    x = torch.cat([context_input, model.action_time(torch.cat([when, model.action_in(noisy)], -1))], 1)
    bias = torch.zeros(length + chunk, length + chunk)
    bias[:seen, seen:] = -torch.inf
    bias[:length, length:] = -torch.inf
    for layer in model.layers:
        x, _ = layer(x, model._positions(length + chunk, 0, x.device), bias=bias)
    return model.action_head(model.out_norm(x[:, length:]).flatten(1)).unflatten(-1, noisy.shape[1:])


def test_cached_prefix_equals_joint_pass() -> None:
    model = expert()
    captured: list[torch.Tensor] = []
    model.layers[0].register_forward_pre_hook(lambda _, args: captured.append(args[0]))
    with torch.no_grad():
        context = model.context(*inputs())
        noisy, time = torch.randn(2, 4, 7), torch.tensor([0.1, 0.8])
        fast = model.velocity(context, noisy, time)
        rows, columns = TINY.vision.grid
        slow = joint_velocity(model, captured[0], noisy, time, seen=(rows // 2) * (columns // 2))
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)


def test_several_noise_draws_equal_separate_calls() -> None:
    model = expert()
    with torch.no_grad():
        context = model.context(*inputs())
        noisy, time = torch.randn(6, 4, 7), torch.rand(6)
        together = model.velocity(context, noisy, time)
        for draw in range(3):
            alone = model.velocity(context, noisy[draw::3], time[draw::3])
            torch.testing.assert_close(together[draw::3], alone, atol=1e-5, rtol=1e-5)


def test_film_starts_neutral_and_then_depends_on_the_latents() -> None:
    model = expert()
    trunk, latents, _ = inputs()
    with torch.no_grad():
        torch.testing.assert_close(model.look(trunk, latents), model.look(trunk, latents * 2))
        model.film[0].weight.normal_(std=0.5)
        assert not torch.allclose(model.look(trunk, latents), model.look(trunk, latents * 2))


def test_place_supervision_teaches_to_point() -> None:
    torch.manual_seed(0)
    model = expert()
    trunk, latents, proprio = inputs(batch=4)
    truth = torch.rand(4, 2, 5) * 0.8 + 0.1
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    first = last = 0.0
    for _ in range(60):
        context = model.context(trunk, latents, proprio)
        loss = sum(place_losses(context, truth, TINY.vision.grid).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        last = float(loss.detach())
        first = first or last
    assert last < 0.3 * first


def test_point_outside_the_picture_only_trains_its_place() -> None:
    context = expert().context(*inputs())
    truth = torch.full((2, 2, 5), 2.0)
    losses = place_losses(context, truth, TINY.vision.grid)
    assert losses["patch"].item() == 0 and losses["point"].item() == 0 and losses["place"].item() > 0


def test_without_film_the_second_look_is_blind_to_the_latents() -> None:
    trunk, latents, _ = inputs()
    for film in (True, False):
        model = ActionExpert(replace(TINY, action=replace(TINY.action, film=film))).eval()
        for layer in model.film:
            torch.nn.init.normal_(layer.weight)
        same = torch.allclose(model.look(trunk, latents), model.look(trunk, latents + 1))
        assert same is not film


def test_without_the_second_look_the_picture_changes_nothing() -> None:
    trunk, latents, proprio = inputs()
    for seen in (True, False):
        torch.manual_seed(0)
        model = ActionExpert(replace(TINY, action=replace(TINY.action, second_look=seen))).eval()
        noisy, time = torch.randn(2, 4, 7), torch.rand(2)
        one, two = (model.velocity(model.context(x, latents, proprio), noisy, time) for x in (trunk, trunk.flip(1)))
        assert torch.allclose(one, two) is not seen


def test_a_closer_look_moves_the_points_and_a_turn_the_yaw_alone() -> None:
    plain = expert()
    model = ActionExpert(replace(TINY, action=replace(TINY.action, closeup=True))).eval()
    model.load_state_dict(model.state_dict() | plain.state_dict())
    noisy, time = torch.randn(2, 4, 7), torch.rand(2)
    with torch.no_grad():
        before, context = plain.context(*inputs()), model.context(*inputs())
        torch.testing.assert_close(before.points, context.pointed)
        looks, places, _ = model.closeup(inputs()[0], context.pointed)
        torch.testing.assert_close(context.points, looks[-1])
        torch.testing.assert_close(context.places, places)
        one = model.velocity(context, noisy, time)
        two = model.velocity(replace(context, turn=None), noisy, time)
    assert context.turn is not None
    torch.testing.assert_close(one[..., 5], two[..., 5] + context.turn)
    others = [column for column in range(7) if column != 5]
    torch.testing.assert_close(one[..., others], two[..., others])


def test_the_pointer_is_taught_what_it_finds_itself() -> None:
    """A closer look, which training leaves as it is, hides none of the pointer's misses."""
    torch.manual_seed(0)
    model = ActionExpert(replace(TINY, action=replace(TINY.action, closeup=True)))
    places = torch.rand(2, 2, 5)
    sum(place_losses(model.context(*inputs()), places, TINY.vision.grid).values()).backward()
    assert all(parameter.grad is None for parameter in model.closeup.parameters())
    assert all(part[-1].weight.grad is not None for part in (model.pointer.lift, model.pointer.refine))
