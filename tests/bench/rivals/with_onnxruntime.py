"""The endpoint on onnxruntime: the same network, exported from torch.nn."""

import onnxruntime
from common import answer, fetch, read

SESSION = None


def handler(event, context):
    global SESSION
    if SESSION is None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        SESSION = onnxruntime.InferenceSession(fetch("model.onnx"), options)
    return answer(SESSION.run(None, {"x": read(event)})[0])
