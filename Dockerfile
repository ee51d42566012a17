# docker build -t mvdiff .
# docker run --rm --gpus all --shm-size 16g -v hf:/cache/huggingface -v "$PWD:/work" mvdiff doctor --config pano.yaml
# torch's wheels bring the CUDA libraries; the host needs NVIDIA's driver and container toolkit, the image no CUDA base.
# docs/cluster.md has more.
FROM python:3.12.11-slim-bookworm

WORKDIR /opt/mvdiff
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE train.py ./
COPY mvdiff mvdiff
COPY configs configs
RUN pip install --no-cache-dir ".[video,pipelines]"

ARG UID=1000
RUN useradd --create-home --uid "$UID" user && install --directory --owner user /cache/huggingface /work
USER user
ENV HF_HOME=/cache/huggingface
VOLUME /cache/huggingface
WORKDIR /work
ENTRYPOINT ["mvdiff"]
