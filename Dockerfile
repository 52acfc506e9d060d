# docker build -t hlwq-stream . && docker run --rm -v /models:/models hlwq-stream run -m /models/model.hlwq "Once upon a time"
# Without -m it is the demo model.  Weights are read by threads where the container forbids io_uring.
FROM debian:bookworm-slim AS build
COPY scripts/deps /src/scripts/deps
RUN /src/scripts/deps
COPY . /src
RUN cmake -S /src -B /build -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX=/usr -DHLWQ_TESTS=OFF \
    && cmake --build /build && cd /build && cpack -G DEB

FROM debian:bookworm-slim
COPY --from=build /build/*.deb /tmp/
RUN apt-get update && apt-get install -y --no-install-recommends /tmp/*.deb && rm -rf /tmp/*.deb /var/lib/apt/lists/*
USER nobody
ENTRYPOINT ["hlwq-stream"]
