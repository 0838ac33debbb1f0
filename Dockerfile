# The vault: one image that is any region, primary or extended, by its directory.
#
#   docker build -t hsmvault .
#
# Regions live in /var/lib/hsmvault: mount a volume there, or they end with the container.
# An HSM's PKCS#11 module and its files are added by an image made from this one, as
# softhsm/Dockerfile does for SoftHSM2.

FROM debian:12-slim AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv
WORKDIR /build
# What builds is all of the lock; what is shipped is only what runs, at its versions.
COPY pyproject.toml requirements.lock ./
RUN python3 -m venv tools \
    && tools/bin/pip install --require-hashes --requirement requirements.lock
RUN python3 -m venv --without-pip /opt/hsmvault \
    && tools/bin/uv pip install --python /opt/hsmvault/bin/python --compile-bytecode \
        --constraint requirements.lock --requirement pyproject.toml
COPY hsmvault hsmvault
RUN tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && tools/bin/uv pip install --python /opt/hsmvault/bin/python --compile-bytecode \
        --no-deps dist/*.whl

FROM debian:12-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/hsmvault --create-home hsmvault \
    && chmod 0700 /var/lib/hsmvault
COPY --from=build /opt/hsmvault /opt/hsmvault
ENV PATH=/opt/hsmvault/bin:$PATH
USER hsmvault
WORKDIR /var/lib/hsmvault
ENTRYPOINT ["hsmvault"]
CMD ["serve", "--region", "/var/lib/hsmvault/region"]
