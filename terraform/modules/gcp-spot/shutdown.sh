#!/bin/sh
# Shutdown script of a Compute Engine spot machine: the training ends and drains at once, and the network stays until that is done.
set -eu

exec systemctl stop train.service
