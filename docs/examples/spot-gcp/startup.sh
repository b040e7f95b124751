#!/bin/sh
# Start-up script of a Compute Engine spot machine, for an image of Debian 12, Ubuntu 24.04 or newer: installs, restores the newest
# checkpoint, trains, and drains when the machine is to end. It runs as root at every start; what is there already stays.
# docs/how-to/train-on-spot-machines.md tells how to use it.
set -eu

# Yours to change. Only root reads it; what the bucket asks for comes from the machine's service account.
umask 077
cat >/etc/train.env <<'ENVIRONMENT'
TRAIN_REPOSITORY=https://git.example.org/you/training.git
TRAIN_OPTIONS="--output-dir /var/lib/train/checkpoints"
CKPTSYNC_RUN=gs://your-bucket/your-run
# Only for a training that saves when it receives this signal; others are ended by it:
# CKPTSYNC_AGENT_ASK=signal:USR1
ENVIRONMENT
umask 022

cat >/etc/systemd/system/train.service <<'UNIT'
[Unit]
Description=Training that resumes from the newest checkpoint
# At shutdown the network stays until this unit has ended.
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
User=trainer
EnvironmentFile=/etc/train.env
Environment=PYTHONUNBUFFERED=1
WorkingDirectory=/srv/train/src
StateDirectory=train
# A GPU's driver makes its device nodes by a program of root, which the training must not start.
ExecStartPre=-+/bin/sh -c 'command -v nvidia-modprobe && exec nvidia-modprobe -u -c 0'
ExecStart=/srv/train/venv/bin/ckptsync run --dir /var/lib/train/checkpoints --state-dir /var/lib/train/journal \
    --drain-timeout 300s -- /srv/train/venv/bin/python train.py $TRAIN_OPTIONS
# SIGTERM goes to ckptsync alone, which passes it on. It is done within --drain-timeout.
KillMode=mixed
TimeoutStopSec=310
Restart=on-failure
RestartSec=10
# 2: an option cannot be used. 5: a newer writer owns the run. 126, 127: the training cannot be started.
RestartPreventExitStatus=2 5 126 127
StandardOutput=journal+console
StandardError=journal+console
SyslogIdentifier=train

# PrivateDevices, ProtectClock and MemoryDenyWriteExecute stay off: GPUs are devices, and compilers make code.
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
UMask=0027

[Install]
WantedBy=multi-user.target
UNIT

# An image that has all this already starts sooner.
cat >/usr/local/sbin/install-training <<'INSTALL'
#!/bin/sh
set -eu
# shellcheck source=/dev/null
. /etc/train.env
export DEBIAN_FRONTEND=noninteractive
if ! command -v git >/dev/null || ! python3 -c 'import ensurepip' 2>/dev/null; then
    apt-get update -q
    apt-get install -qy --no-install-recommends git python3-venv
fi
id trainer >/dev/null 2>&1 || useradd --system --home-dir /var/lib/train --shell /usr/sbin/nologin trainer
mkdir -p /srv/train
if [ ! -x /srv/train/venv/bin/ckptsync ]; then
    python3 -m venv /srv/train/venv
    /srv/train/venv/bin/pip install --quiet 'ckptsync[gcs,agent]'
fi
if [ ! -d /srv/train/src ]; then
    rm -rf /srv/train/new
    git clone --quiet --depth 1 "$TRAIN_REPOSITORY" /srv/train/new
    [ ! -f /srv/train/new/requirements.txt ] || /srv/train/venv/bin/pip install --quiet -r /srv/train/new/requirements.txt
    mv /srv/train/new /srv/train/src
fi

systemctl daemon-reload
systemctl enable --now train.service
INSTALL
chmod 755 /usr/local/sbin/install-training

# A registry that does not answer once must not leave a machine that costs and trains nothing.
until /usr/local/sbin/install-training; do
    sleep 30
done
