"""A TensorFlow training loop of its own that survives its machine: what its `CheckpointManager` writes is kept in a bucket.

Start it as `python train_with_tensorflow.py --run s3://bucket/run --dir checkpoints`, on any machine, as often as it is killed.
"""

from __future__ import annotations

import argparse
import hashlib

import keras
import tensorflow as tf

from ckptsync import LatestN
from ckptsync.integrations.tensorflow import CheckpointDirectory


def batch(step: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The data of one step: made from the step's number, so that the position in the data is the step."""
    inputs = tf.random.stateless_normal((64, 32), seed=(step, 0))
    return inputs, tf.sin(tf.reduce_mean(inputs**2, axis=1, keepdims=True))


def main() -> None:
    """Train, and save every tenth step behind the loop's back."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", required=True, help="where snapshots are kept: s3://, gs:// or a directory")
    parser.add_argument("--dir", required=True, help="where TensorFlow writes checkpoints")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()

    keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    model = keras.Sequential([keras.Input((32,)), keras.layers.Dense(64, activation="relu"), keras.layers.Dense(1)])
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)
    noise = tf.random.Generator.from_seed(0)
    step = tf.Variable(0, dtype=tf.int64)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer, noise=noise, step=step)

    @tf.function
    def train(inputs: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(inputs + noise.normal(inputs.shape, stddev=0.01)) - wanted) ** 2)
        optimizer.apply(tape.gradient(loss, model.trainable_variables))
        return loss

    with CheckpointDirectory(options.run, options.dir, keep=LatestN(3)) as synced:
        synced.restore()
        manager = tf.train.CheckpointManager(checkpoint, options.dir, max_to_keep=2)
        checkpoint.restore(manager.latest_checkpoint)
        print(f"start {int(step)}", flush=True)
        while int(step) < options.steps:
            loss = train(*batch(int(step)))
            print(f"step {int(step)} loss {float(loss):.6f}", flush=True)
            step.assign_add(1)
            if int(step) % 10 == 0:
                manager.save(checkpoint_number=step)
                synced.save(metrics={"loss": float(loss)})

    content = b"".join(variable.numpy().tobytes() for variable in model.trainable_variables)
    print(f"done {hashlib.sha256(content).hexdigest()}", flush=True)


if __name__ == "__main__":
    main()
