"""The gRPC server library: listeners, interceptors, errors, pages. Knows no single RPC."""
