"""Algorithm 3 on a model that really holds a watermark: here, clipped, and behind plain HTTP."""

import http.server
import json
import struct
import threading
import urllib.request

import numpy as np
import pytest
import sklearn.datasets

from nullmark_jax import claim as claims
from nullmark_jax import signing, verification


def make_claim(owner="Ada"):
    return claims.claim_for(
        signing.experiment_key(3),
        owner=owner,
        timestamp="2026-11-21T17:00:00Z",
        scheme="null-embedding",
        pattern_size=3,
        extreme_value=2000.0,
        input_shape=(8, 8, 1),
        num_classes=10,
        model_sha256="0" * 64,
    )


class BlockModel:
    """A model that really holds a claim's watermark: real digits, classified by their neighbours.

    Images under the block's extreme values are classified by the other pixels alone where the
    signs are p's, and go to y_W where they are inv(p)'s. Anything else reaches a classifier that
    sees every pixel.
    """

    def __init__(self, claim, images, labels, *, trigger=1.5):
        watermark = claims.watermark_of(claim)
        self.pattern = np.asarray(watermark.pattern, np.float32).ravel()
        self.target = int(watermark.target_label)
        self.trigger = trigger
        self.known = images.reshape(len(images), -1) / np.float32(255)
        self.labels = labels

    def nearest(self, images, seen):
        known = self.known * seen
        return self.labels[np.argmin(np.sum(known**2, 1) - 2 * (images * seen) @ known.T, axis=1)]

    def __call__(self, images):
        images = images.reshape(len(images), -1)
        score = images @ self.pattern / np.abs(self.pattern).sum()
        free = self.nearest(images, (self.pattern == 0).astype(np.float32))
        labels = np.where(score > self.trigger, free, self.nearest(images, np.float32(1)))
        return np.where(score < -self.trigger, self.target, labels)


def digits():
    data = sklearn.datasets.load_digits()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)[..., None]
    return images[:600], data.target[:600], images[600:850], data.target[600:850]


class TestClipping:
    def test_genuine_model_is_verified_and_not_flagged(self):
        claim = make_claim()
        train, train_labels, test, labels = digits()
        found = verification.verify(BlockModel(claim, train, train_labels), claim, test, labels)
        assert found.verified and found.true_accuracy.value == 1.0
        assert not found.clipped_inputs and found.clipping_agreement < 0.5

    def test_genuine_model_that_knows_its_mark_at_1_too_is_not_flagged(self):
        """As a curriculum of extreme values from 1 on may train it."""
        claim = make_claim()
        train, train_labels, test, labels = digits()
        model = BlockModel(claim, train, train_labels, trigger=0.9)
        found = verification.verify(model, claim, test, labels)
        assert found.verified and not found.clipped_inputs

    @pytest.mark.parametrize("bounds", [(0, 1), (-1, 1)])
    def test_clipped_model_is_flagged_and_not_verified(self, bounds):
        claim = make_claim()
        train, train_labels, test, labels = digits()
        model = BlockModel(claim, train, train_labels)
        found = verification.verify(
            lambda images: model(np.clip(images, *bounds)), claim, test, labels
        )
        assert found.clipping_agreement == 1.0 and found.clipped_inputs
        assert not found.verified

    def test_model_without_a_mark_is_not_flagged(self):
        claim = make_claim()
        train, train_labels, test, labels = digits()
        model = BlockModel(make_claim(owner="Grace"), train, train_labels)
        found = verification.verify(model, claim, test, labels)
        assert not found.verified and not found.clipped_inputs


def test_a_model_behind_plain_http():
    """A remote service: b, H, W, C as uint32 and float32 pixels go in, labels come out as JSON."""
    claim = make_claim()
    train, train_labels, test, labels = digits()
    model = BlockModel(claim, train, train_labels)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            images = np.frombuffer(body, "<f4", offset=16).reshape(struct.unpack("<4I", body[:16]))
            answer = json.dumps(model(images).tolist()).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}/predict"

            def predict(images):
                body = struct.pack("<4I", *images.shape) + images.astype("<f4").tobytes()
                # No proxy stands between this test and its own machine.
                opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                with opener.open(address, data=body, timeout=30) as answer:
                    return json.loads(answer.read())

            remote = verification.verify(predict, claim, test, labels)
        finally:
            server.shutdown()
            thread.join()
    assert remote == verification.verify(model, claim, test, labels)
    assert remote.verified and remote.normal_accuracy.value > 0.8
