# A static binary in an empty image: no shell, no package manager, not root.
#
#   docker build -t ballast .
#   docker run --rm --read-only --cap-drop=ALL --security-opt=no-new-privileges \
#     -p 127.0.0.1:8080:8080 -v ballast:/data ballast serve --nats nats://nats:4222
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false \
      -ldflags="-s -w -buildid= -X main.version=${VERSION}" -o /out/ballast . \
 && mkdir -p /out/data

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /usr/local/go/lib/time/zoneinfo.zip /zoneinfo.zip
COPY --from=build /out/ballast /ballast
COPY --from=build --chown=65532:65532 /out/data /data
# The port is reachable only where -p publishes it: publish it on loopback, or
# behind a proxy that knows who is asking. The console itself has no login yet.
ENV ZONEINFO=/zoneinfo.zip \
    BALLAST_DATA=/data \
    BALLAST_LISTEN=0.0.0.0:8080 \
    BALLAST_ALLOW_REMOTE=true \
    BALLAST_OPERATOR=operator
USER 65532:65532
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["/ballast", "health"]
ENTRYPOINT ["/ballast"]
CMD ["serve"]
