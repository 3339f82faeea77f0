# One image for every part; the part is chosen by the command (see docker-compose.yml).

FROM python:3.13-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PATH=/opt/venv/bin:$PATH
RUN python -m venv /opt/venv
WORKDIR /srv/penstock
# The locked libraries first: this layer is kept until the lock changes.
COPY deploy/requirements.lock deploy/requirements.lock
RUN pip install --require-hashes --requirement deploy/requirements.lock
COPY . .
RUN pip install --editable . --no-deps --no-build-isolation \
    && python -m compileall -q app simulator workers migrations

FROM python:3.13-slim-bookworm
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /srv/penstock --shell /usr/sbin/nologin penstock
COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv/penstock /srv/penstock
WORKDIR /srv/penstock
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER penstock
EXPOSE 8000 5555
CMD ["penstock", "--help"]
