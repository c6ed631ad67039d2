# The page in a container:  docker build -t instructvla-live . && docker run -p 7860:7860 instructvla-live
# A Hugging Face Space of kind "docker" builds and starts the same file: see SPACE.md.
FROM debian:12-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

# Whoever runs the page may write recordings and caches, and nothing else.
RUN useradd --uid 1000 --create-home --home-dir /srv/visitor visitor
ENV HOME=/srv/visitor PYTHONDONTWRITEBYTECODE=1
WORKDIR /srv/instructvla

# The set-up depends on little: the long part is not repeated when only the code changes.
COPY Makefile requirements.txt ./
RUN make .venv/stamps/packages
COPY . .
RUN make setup \
    && mkdir -p recordings runs \
    && touch votes.jsonl \
    && chown -R visitor: recordings runs votes.jsonl /srv/visitor

USER visitor
EXPOSE 7860
HEALTHCHECK --start-period=120s \
    CMD [".venv/bin/python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:7860/health', timeout=5)"]

CMD [".venv/bin/python", "app.py", "--host", "0.0.0.0"]
