"""A JAX training loop that survives its machine: what orbax writes is kept in a bucket.

Start it as `python train_with_orbax.py --run s3://bucket/run --dir checkpoints`, on any machine, as often as it is killed.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from ckptsync import LatestN
from ckptsync.integrations.orbax import CheckpointDirectory

State = dict[str, jax.Array]


def batch(step: int) -> tuple[jax.Array, jax.Array]:
    """The data of one step: made from the step's number, so that the position in the data is the step."""
    inputs = jax.random.normal(jax.random.key(step), (64, 32))
    return inputs, jnp.sin((inputs**2).mean(axis=1, keepdims=True))


def fresh() -> State:
    """Weights, momenta, and what random numbers are drawn from."""
    key = jax.random.key(0)
    weights = {"first": jax.random.normal(key, (32, 64)) / 6, "last": jax.random.normal(key, (64, 1)) / 8}
    momenta = {f"{name}_momentum": jnp.zeros_like(weight) for name, weight in weights.items()}
    return {**weights, **momenta, "key": jax.random.key_data(key)}


def loss_of(weights: State, inputs: jax.Array, wanted: jax.Array) -> jax.Array:
    """How far off the model is."""
    return jnp.mean((jax.nn.relu(inputs @ weights["first"]) @ weights["last"] - wanted) ** 2)


@jax.jit
def train(state: State, inputs: jax.Array, wanted: jax.Array) -> tuple[State, jax.Array]:
    """One step of stochastic gradient descent with momentum, on noisy inputs."""
    following, key = jax.random.split(jax.random.wrap_key_data(state["key"]))
    noisy = inputs + 0.01 * jax.random.normal(key, inputs.shape)
    weights = {name: state[name] for name in ("first", "last")}
    loss, gradients = jax.value_and_grad(loss_of)(weights, noisy, wanted)
    momenta = {name: 0.9 * state[f"{name}_momentum"] + gradients[name] for name in weights}
    moved = {name: weights[name] - 0.01 * momenta[name] for name in weights}
    kept = {f"{name}_momentum": momentum for name, momentum in momenta.items()}
    return {**moved, **kept, "key": jax.random.key_data(following)}, loss


def main() -> None:
    """Train, and save every tenth step behind the loop's back."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", required=True, help="where snapshots are kept: s3://, gs:// or a directory")
    parser.add_argument("--dir", required=True, type=Path, help="where orbax writes checkpoints")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    folder = options.dir.absolute()

    with CheckpointDirectory(options.run, folder, keep=LatestN(3)) as synced:
        done = synced.restore()
        settings = ocp.CheckpointManagerOptions(save_interval_steps=10, max_to_keep=2)
        with ocp.CheckpointManager(folder, options=settings) as manager:
            state = fresh()
            if done is not None:
                state = manager.restore(done, args=ocp.args.StandardRestore(state))
            for step in range(0 if done is None else done + 1, options.steps):
                state, loss = train(state, *batch(step))
                print(f"step {step} loss {float(loss):.6f}", flush=True)
                if manager.save(step, args=ocp.args.StandardSave(state)):
                    synced.save()  # what orbax has finished by now: it writes behind the loop's back too
            manager.wait_until_finished()
            synced.save()

    content = b"".join(jax.device_get(state[name]).tobytes() for name in sorted(state))
    print(f"done {hashlib.sha256(content).hexdigest()}", flush=True)


if __name__ == "__main__":
    main()
