# syntax=docker/dockerfile:1
# Two images: `backend` answers Label Studio and needs neither torch nor a GPU; `worker` runs the model.
#   docker build --target backend -t trajseg-backend .
#   docker build --target worker  -t trajseg-worker .

FROM python:3.12-slim-bookworm AS backend
ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    TRAJSEG_HOST=0.0.0.0 \
    TRAJSEG_PORT=9090 \
    TRAJSEG_DATA_DIR=/data
# The same number in both images, so that they can share the volume.
RUN useradd --uid 10001 --create-home trajseg && install -d -o trajseg /data
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY label_config label_config
COPY backend backend
COPY worker worker
COPY trajseg trajseg
RUN --mount=type=cache,target=/root/.cache/pip pip install .
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=6 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"TRAJSEG_PORT\"]}/health', timeout=4)"]
CMD ["trajseg", "backend"]


# torch's wheels bring their CUDA libraries with them; the base image adds what lets the container see the GPU.
FROM nvidia/cuda:13.0.2-base-ubuntu24.04 AS worker
# The distribution's fixes are wanted, so its packages are not pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PATH=/opt/trajseg/bin:$PATH \
    SAM2_BUILD_CUDA=0 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TRAJSEG_DATA_DIR=/data
RUN useradd --uid 10001 --create-home trajseg && install -d -o trajseg /data && python3 -m venv /opt/trajseg
# A layer of its own: it is gigabytes, and the code below changes more often. sam2 is built against it.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install "setuptools>=70" "wheel>=0.43" "torch>=2.13" "torchvision>=0.28"
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY label_config label_config
COPY backend backend
COPY worker worker
COPY trajseg trajseg
# hadolint ignore=DL3013
RUN --mount=type=cache,target=/root/.cache/pip pip install --no-build-isolation ".[model]"
USER 10001
WORKDIR /data
VOLUME /data
# Alive means: this container's worker is registered in the queue, and its registration has not run out.
HEALTHCHECK --interval=30s --timeout=15s --start-period=120s --retries=4 \
    CMD ["python3", "-c", "import os, socket, sys; from redis import Redis; from rq import Worker; sys.exit(not any(w.hostname == socket.gethostname() for w in Worker.all(connection=Redis.from_url(os.environ['REDIS_URL']))))"]
CMD ["trajseg", "worker"]
