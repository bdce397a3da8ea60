"""The graph room: training graphs as plain ONNX operators, how they are differentiated, rewritten and measured."""
