# The workstation: scores, plans and exports, on the processor alone.
#   docker build -f docker/workstation.Dockerfile -t edgeplast-workstation .
FROM python:3.12-slim
WORKDIR /source
# torch first, from the index of the processor's builds: the default one brings 2.4 GB of CUDA.
RUN pip install --no-cache-dir torch==2.13.0 torchvision==0.28.0 --index-url https://download.pytorch.org/whl/cpu
COPY . .
# hadolint ignore=DL3013
RUN pip install --no-cache-dir '.[offline,train]' && rm -rf /source/*
WORKDIR /work
RUN useradd --create-home --uid 1000 edgeplast
USER 1000
ENTRYPOINT ["edgeplast"]
