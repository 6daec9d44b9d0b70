# The CPU image: the server with its embedded model. No apt packages, no compiler, no root, no espeak-ng (GPL).
#   docker build -t knotcast .
# A mirror or a wheel folder instead of the public indexes: --build-arg TORCH_INDEX= and PIP_* variables or mounts of your own.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
# Where the CPU build of torch comes from; empty: from wherever pip finds it.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/knotcast
WORKDIR /src
# Dependencies change rarely and the code often: a layer for each.
COPY pyproject.toml constraints.txt face-nets.txt ./
RUN /opt/knotcast/bin/pip install -c constraints.txt --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch \
 && python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > requirements.txt \
 && /opt/knotcast/bin/pip install -c constraints.txt -r requirements.txt \
 && /opt/knotcast/bin/pip install --no-deps --require-hashes -r face-nets.txt
# The rest of what .dockerignore lets through.
COPY . .
# The installer is of no use at run time: leave it behind.
RUN /opt/knotcast/bin/pip install --no-deps . && /opt/knotcast/bin/pip uninstall -y pip

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="knotcast" \
      org.opencontainers.image.description="A real-time avatar server: a portrait answers, live, over WebRTC" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/knotcast /opt/knotcast
COPY docker/healthcheck.py /opt/knotcast/healthcheck.py
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin knotcast
ENV PATH=/opt/knotcast/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000/tcp
# No spaces inside an argument: some engines' APIs split them.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "/opt/knotcast/healthcheck.py"]
CMD ["knotcast", "serve", "--host", "0.0.0.0"]
