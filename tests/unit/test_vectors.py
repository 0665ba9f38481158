from tests.conftest import picture_bytes
import tests.conftest, sys
def test_x():
    print([m for m in sys.modules if 'conftest' in m])
    assert picture_bytes(1)
