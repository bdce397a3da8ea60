# The device side: Python, the runtime and edgeplast, for x86-64 and ARM.
#   docker build -f docker/device.Dockerfile -t edgeplast .
FROM python:3.12-slim
WORKDIR /source
COPY . .
# hadolint ignore=DL3013
RUN pip install --no-cache-dir '.[stock]' && rm -rf /source/*
WORKDIR /work
RUN useradd --create-home --uid 1000 edgeplast
USER 1000
ENTRYPOINT ["edgeplast"]
