# The map server (`python -m mapserver`: nginx and its MapServer workers) and its sidecar (`python -m mapserver.sync`).
# Build it in the checkout:
#   docker build -f deploy/mapserver.Dockerfile -t ls4-mapserver .
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BASE_IMAGE} AS build
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
ARG UV_VERSION=0.13.9
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir "uv==${UV_VERSION}"
WORKDIR /opt/ls4
ENV UV_PROJECT_ENVIRONMENT=/opt/venv UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PYTHON_DOWNLOADS=never UV_NO_CACHE=1
# Only four libraries, without those of the pipeline: a small image with a small attack surface.
COPY pyproject.toml uv.lock ./
RUN /opt/uv/bin/uv sync --locked --only-group mapserver --no-install-project --python /usr/bin/python3

FROM ${BASE_IMAGE}
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 libexpat1 util-linux \
      cgi-mapserver nginx-light libnginx-mod-http-js \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --user-group --no-create-home --home-dir /tmp ls4 \
 && install -d -o ls4 -g ls4 /srv/ls4
COPY --from=build /opt/venv /opt/venv
COPY ls4_assets /opt/ls4/ls4_assets
COPY resources /opt/ls4/resources
COPY mapserver /opt/ls4/mapserver
# The archive file of this installation, if it has one of its own (LS4_ARCHIVE_FILE).
COPY deploy/archive /opt/archive
ENV PYTHONPATH=/opt/ls4 \
    PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# Mapfiles, configuration and cached tiles. After the owner is set: a new volume gets the owner of the folder in the image.
VOLUME ["/srv/ls4", "/tmp"]
WORKDIR /tmp
USER 1000
EXPOSE 8080
# nginx serves this page without the database: a restart of the map server would not fix a database outage.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/', timeout=5)"]
CMD ["python", "-m", "mapserver", "--listen", "0.0.0.0", "--run-dir", "/srv/ls4/serving", \
     "--mapfiles", "/srv/ls4/mapfiles", "--collections", "/srv/ls4/run/collections.json"]
