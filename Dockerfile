# tellapart serve, without torch. Not built with Docker yet; its commands were run by hand, without
# root and without a home: install, start with tokens, the health check, an audit, SIGTERM.
#   docker build -t tellapart .
FROM python:3.11-slim AS build
COPY . /src
RUN python -m venv /opt/tellapart \
    && /opt/tellapart/bin/pip install --no-cache-dir -c /src/constraints.txt '/src[postgres]'

FROM python:3.11-slim
COPY --from=build /opt/tellapart /opt/tellapart
RUN useradd --uid 10001 --create-home tellapart && mkdir /data && chown tellapart /data
# By number, so that a cluster can see that it is not root.
USER 10001
ENV PATH=/opt/tellapart/bin:$PATH TELLAPART_DATABASE=sqlite:////data/records.sqlite
VOLUME ["/data", "/models"]
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
# Tokens come as the secret below, or in TELLAPART_TOKENS; without any it refuses to start.
ENTRYPOINT ["tellapart", "serve", "--host", "0.0.0.0"]
CMD ["/models/model.tellapart", "--tokens", "/run/secrets/tellapart_tokens"]
