# batchserve in an image: docker build -t batchserve --build-arg EXTRAS=cpu .
# EXTRAS=gpu,gpu-metrics brings CUDA and cuDNN as packages; the driver comes from the machine (NVIDIA Container Toolkit).
ARG PYTHON=3.12.11

FROM python:${PYTHON}-slim-bookworm AS build
ARG EXTRAS=cpu
WORKDIR /src
COPY docker/constraints.txt ./
COPY pyproject.toml README.md LICENSE ./
COPY batchserve ./batchserve
RUN python -m venv /opt/batchserve \
    && /opt/batchserve/bin/pip install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]" \
    && /opt/batchserve/bin/python -m compileall -q /opt/batchserve/lib

FROM python:${PYTHON}-slim-bookworm
COPY --from=build /opt/batchserve /opt/batchserve
RUN install -d -o 10001 -g 10001 /cache
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 BATCHSERVE_SERVER__CACHE_DIR=/cache
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
    CMD ["/opt/batchserve/bin/python", "-c", "import urllib.request as web; web.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]
ENTRYPOINT ["/opt/batchserve/bin/batchserve"]
CMD ["serve", "/models", "--host", "0.0.0.0", "--port", "8000", "--log-format", "json"]
