# ckptsync as a container: `docker build -t ckptsync .`; docs/how-to/build-the-image.md tells more.
ARG PYTHON=3.12

FROM docker.io/library/python:${PYTHON}-slim AS build
WORKDIR /src
RUN python -m venv /opt/ckptsync && mkdir -m 0775 /volume
COPY pyproject.toml README.md LICENSE ./
COPY ckptsync ./ckptsync
RUN /opt/ckptsync/bin/python -m pip install --quiet --no-cache-dir --disable-pip-version-check '.[s3,gcs,sign,zstd,agent]' \
    && /opt/ckptsync/bin/python -m pip --disable-pip-version-check uninstall --quiet --yes setuptools pip \
    # of the descriptions of hundreds of services, those that S3 and its credentials need
    && find /opt/ckptsync/lib/*/site-packages/botocore/data -mindepth 1 -maxdepth 1 -type d \
        ! -name s3 ! -name sts ! -name sso ! -name sso-oidc ! -name signin -exec rm -rf {} + \
    && find /opt/ckptsync/lib -depth -type d \( -name tests -o -name test \) -exec rm -rf {} + \
    && /opt/ckptsync/bin/ckptsync --version

FROM docker.io/library/python:${PYTHON}-slim
LABEL org.opencontainers.image.title="ckptsync" \
    org.opencontainers.image.description="Checkpoints to S3 and Google Cloud Storage and back" \
    org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/ckptsync /opt/ckptsync
COPY --from=build --chown=10001:10001 /volume /data
COPY --from=build --chown=10001:10001 /volume /state
ENV PATH=/opt/ckptsync/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    CKPTSYNC_DIR=/data \
    CKPTSYNC_STATE_DIR=/state \
    CKPTSYNC_AGENT_PORT=8460
USER 10001:10001
VOLUME ["/data", "/state"]
EXPOSE 8460
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['CKPTSYNC_AGENT_PORT'] + '/healthz', timeout=2)"]
ENTRYPOINT ["ckptsync"]
CMD ["agent"]
