# fftlama in a container: the program, its libraries and the included weights, as a user without rights.
#
#   docker build -t fftlama .                                        # CUDA; a CPU works too
#   docker build -t fftlama:cpu --build-arg TORCH_BACKEND=cpu .      # smaller, for a CPU alone
#   docker run --gpus all -p 127.0.0.1:7860:7860 -v fftlama:/data fftlama
#
# docs/service.md says more; compose.yaml runs it with Redis and two workers.
ARG PYTHON=3.13
FROM python:${PYTHON}-slim

# Triton compiles a few lines of C on each start with a card; a CPU needs no compiler.
ARG TORCH_BACKEND=
RUN if [ "$TORCH_BACKEND" != cpu ]; then \
        apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*; \
    fi

WORKDIR /opt/fftlama
# The libraries first: they change less often than the program, and their layer is kept.
COPY start_app.sh requirements.lock requirements-override.txt ./
COPY scripts/ scripts/
RUN TORCH_BACKEND="$TORCH_BACKEND" PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1 ./start_app.sh --install-only

COPY . .
RUN useradd --system --uid 10001 --create-home fftlama \
    && mkdir /data /cache && chown fftlama:fftlama /data /cache \
    && .venv/bin/python -m compileall -q app.py config.py inference.py notices.py preprocess.py \
        cli detection engine imaging jobs lama masks tensor_ops web
USER 10001:10001
ENV PATH=/opt/fftlama/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    TRITON_CACHE_DIR=/cache/triton \
    FFTLAMA_HOST=0.0.0.0 \
    FFTLAMA_DATA_DIR=/data/photos \
    FFTLAMA_OUTPUTS_DIR=/data/outputs
VOLUME ["/data", "/cache"]
EXPOSE 7860
STOPSIGNAL SIGTERM
# Not by urllib, which would ask the proxy that Docker hands to its containers.
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=3 \
    CMD ["python", "-c", "import http.client as h, sys; c = h.HTTPConnection('127.0.0.1', 7860, timeout=4); c.request('GET', '/health'); sys.exit(c.getresponse().status != 200)"]
CMD ["python", "app.py"]
