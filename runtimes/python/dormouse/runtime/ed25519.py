"""Ed25519 verification (RFC 8032, section 5.1.7), for Python's standard library has none. Verification has no secrets, so
nothing here needs constant time.

Both points that are multiplied, the base and the public key, are known when the process parks. So their multiples are
tabulated then: a verification is 128 additions and no doubling, under a millisecond."""
import hashlib

P = 2**255 - 19
#: The order of the base point.
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)
KEY_BYTES = 32
SIGNATURE_BYTES = 64
#: Scalars have 256 bits at most: 64 digits of 4 bits.
DIGITS = 64

# Points are (X, Y, Z, T) with x = X/Z, y = Y/Z, xy = T/Z: extended coordinates, whose addition has no exceptions.
Point = tuple[int, int, int, int]
ZERO: Point = (0, 1, 1, 0)


def _add(p: Point, q: Point) -> Point:
    a = (p[1] - p[0]) * (q[1] - q[0]) % P
    b = (p[1] + p[0]) * (q[1] + q[0]) % P
    c = 2 * p[3] * q[3] * D % P
    d = 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def _decode(data: bytes) -> Point | None:
    """The point that 32 bytes stand for; None when they stand for none (section 5.1.3)."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P != 0:
        x = x * SQRT_M1 % P
    if (x * x - square) % P != 0 or (x == 0 and sign == 1):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


def _encode(p: Point) -> bytes:
    inverse = pow(p[2], -1, P)
    x, y = p[0] * inverse % P, p[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _table(p: Point) -> list[list[Point]]:
    """For each digit d at each position i: d * 16^i * p."""
    table = []
    for _ in range(DIGITS):
        row = [ZERO]
        for _ in range(15):
            row.append(_add(row[-1], p))
        table.append(row)
        p = _add(row[-1], p)
    return table


BASE_POINT = bytes.fromhex("5866666666666666666666666666666666666666666666666666666666666666")
_BASE = _table(_decode(BASE_POINT))


class PublicKey:
    """A public key, made ready to verify with. Raises ValueError when the bytes are none."""

    def __init__(self, data: bytes):
        point = _decode(data) if len(data) == KEY_BYTES else None
        if point is None:
            raise ValueError(f"an Ed25519 key is {KEY_BYTES} bytes that stand for a point; these {len(data)} do not")
        eightfold = point
        for _ in range(3):
            eightfold = _add(eightfold, eightfold)
        if _encode(eightfold) == _encode(ZERO):
            raise ValueError("this key is a point of small order, by which anybody can sign")
        self._data = data
        x, y, z, t = point
        self._minus = _table((P - x, y, z, P - t))

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether the signature is this key's over the message."""
        if len(signature) != SIGNATURE_BYTES:
            return False
        r, s = signature[:32], int.from_bytes(signature[32:], "little")
        # Without this a signature has others beside it that hold as well.
        if s >= L:
            return False
        k = int.from_bytes(hashlib.sha512(r + self._data + message).digest(), "little") % L
        # S B = R + k A, so R is S B - k A. R is compared as it is written: another writing of the same point is no R.
        sum_ = ZERO
        for base, minus in zip(_BASE, self._minus):
            if s & 15:
                sum_ = _add(sum_, base[s & 15])
            if k & 15:
                sum_ = _add(sum_, minus[k & 15])
            s >>= 4
            k >>= 4
        return _encode(sum_) == r
