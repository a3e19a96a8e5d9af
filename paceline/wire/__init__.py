"""The door to gRPC and protobuf: codecs, links between processes, servers with health, reflection and drain."""
