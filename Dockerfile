# bigbrotr in one image: all services, workers and an embedded PostgreSQL, for x86-64 and arm64.
#
#   docker build -t bigbrotr .
#   docker run -d --name bigbrotr -v bigbrotr:/var/lib/bigbrotr -p 127.0.0.1:9464:9464 -p 127.0.0.1:7447:7447 \
#       --stop-timeout 120 bigbrotr
#   docker exec bigbrotr bigbrotr status
#   curl http://127.0.0.1:7447/api/v1/status
#
# In the container both ports are open to whoever reaches it: publish them as above, or let a proxy speak for [serve]
# public_url. BASE may be pinned by its digest. Settings: /etc/bigbrotr/bigbrotr.toml, or -e BIGBROTR_CONFIG=…;
# -e BIGBROTR_PROFILE=full keeps whole events; -e DATABASE_URL=postgresql://user@host/name with -e DB_PASSWORD_FILE=… uses
# another PostgreSQL.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
# For native/. Debian keeps one version a release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY requirements/run.txt requirements/
RUN python3 -m venv /opt/bigbrotr \
    && /opt/bigbrotr/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes \
        --only-binary :all: -r requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY bigbrotr bigbrotr
COPY sql sql
COPY configs configs
COPY native native
# The same Python compiles what the image runs read-only.
RUN /opt/bigbrotr/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation . ./native \
    && /opt/bigbrotr/bin/python -m compileall -q /opt/bigbrotr/lib \
    && mkdir -p /etc/bigbrotr \
    && printf '[database]\nurl = "%sDATABASE_URL"\n\n[web]\nlisten = "0.0.0.0:9464"\n\n[serve]\nlisten = "0.0.0.0:7447"\n' '$' > /etc/bigbrotr/bigbrotr.toml

FROM ${BASE}
LABEL org.opencontainers.image.title="bigbrotr" \
      org.opencontainers.image.description="An observatory and archive of the Nostr network" \
      org.opencontainers.image.licenses="MIT"
# tini collects the processes that a PostgreSQL leaves when it is killed. Debian keeps one version a release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 bigbrotr \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/bigbrotr --shell /usr/sbin/nologin bigbrotr \
    && install -d -o bigbrotr -g bigbrotr -m 700 /var/lib/bigbrotr
COPY --from=build /opt/bigbrotr /opt/bigbrotr
COPY --from=build /etc/bigbrotr /etc/bigbrotr
# glibc's arenas: two, which give memory back to the system.
ENV PATH=/opt/bigbrotr/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONFAULTHANDLER=1 \
    MALLOC_ARENA_MAX=2 \
    MALLOC_TRIM_THRESHOLD_=131072 \
    STATE_DIRECTORY=/var/lib/bigbrotr \
    BIGBROTR_CONFIG=/etc/bigbrotr/bigbrotr.toml \
    BIGBROTR_PROFILE=lite
USER 10001:10001
WORKDIR /var/lib/bigbrotr
VOLUME /var/lib/bigbrotr
EXPOSE 9464 7447
STOPSIGNAL SIGTERM
# Well while it goes on and the database answers; a long recovery is not well yet.
HEALTHCHECK --interval=30s --timeout=20s --start-period=10m --retries=3 CMD ["bigbrotr", "health"]
ENTRYPOINT ["tini", "--", "bigbrotr"]
CMD ["run"]
