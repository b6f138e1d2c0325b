"""The lab's registry, and what stands in its place while it is down."""

import ssl
import urllib.error
import urllib.request

import pytest

from veilor.lab.registry import Registry


@pytest.fixture
def registry(tools, tmp_path):
    registry = Registry(tools, tmp_path / "registry", "ghcr.io").start()
    yield registry
    registry.stop()


def ask(registry):
    """Status and headers of the answer to GET /v2/, verified by the registry's authority."""
    context = ssl.create_default_context(cafile=str(registry.ca))
    try:
        with urllib.request.urlopen(
            f"https://127.0.0.1:{registry.port}/v2/", timeout=10, context=context
        ) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.headers


def pull(tools, registry, folder):
    """What skopeo says when it asks for an image under the product's policy of certificates."""
    argv = ["skopeo", "inspect", f"--cert-dir={registry.folder}/trust", "--raw"]
    reference = f"docker://127.0.0.1:{registry.port}/veilor/veilor-os:44"
    done = tools.run([*argv, reference], binds=[folder], timeout=60, check=False)
    return done.stderr.decode()


def test_an_error_comes_over_the_registrys_own_certificate_without_its_header(registry, tools, tmp_path):
    port = registry.port
    with registry.replaced_by_error(503) as asked:
        status, headers = ask(registry)
        assert status == 503 and "Docker-Distribution-Api-Version" not in headers
        assert asked == ["/v2/"]
        assert "503" in pull(tools, registry, tmp_path)
    status, headers = ask(registry)
    assert status == 200 and headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert registry.port == port


def test_a_strangers_certificate_is_refused_before_any_status_is_read(registry, tools, tmp_path):
    with registry.replaced_by_error(503, genuine=False) as asked:
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            ask(registry)
        assert "x509" in pull(tools, registry, tmp_path) and not asked
    assert ask(registry)[0] == 200


def test_the_registry_comes_back_also_after_a_phase_that_failed(registry):
    with pytest.raises(ZeroDivisionError), registry.replaced_by_error():
        assert ask(registry)[0] == 503
        raise ZeroDivisionError
    assert ask(registry)[0] == 200
