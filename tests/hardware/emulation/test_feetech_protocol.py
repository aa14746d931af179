"""Packets and their parser."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebt_policy.hardware.emulation.feetech_protocol import BROADCAST_ID, Instruction, Packet, PacketParser

packets = st.builds(
    Packet, st.integers(0, BROADCAST_ID), st.integers(0, 255), st.binary(max_size=60).map(bytes)
)
PING = Packet(1, Instruction.PING)


def test_bytes_are_those_of_the_manual():
    assert PING.to_bytes() == bytes.fromhex("ff ff 01 02 01 fb")
    assert Packet(1, Instruction.READ, b"\x38\x02").to_bytes() == bytes.fromhex("ff ff 01 04 02 38 02 be")


@given(st.lists(packets, max_size=5), st.lists(st.integers(1, 40), min_size=1))
def test_any_packets_in_any_pieces_come_out_as_they_went_in(sent: list[Packet], pieces: list[int]):
    stream, parser, found = b"".join(packet.to_bytes() for packet in sent), PacketParser(), []
    while stream:
        for size in pieces:
            found += parser.feed(stream[:size])
            stream = stream[size:]
    assert found == sent and not parser.pending


@given(packets, st.data())
def test_no_packet_with_a_wrong_byte_gets_through(packet: Packet, data: st.DataObject):
    stream = bytearray(packet.to_bytes())
    stream[data.draw(st.integers(2, len(stream) - 1))] ^= data.draw(st.integers(1, 255))
    parser = PacketParser()
    assert packet not in parser.feed(bytes(stream)) + parser.line_silent()


@given(st.binary(max_size=400))
def test_after_noise_and_silence_the_next_packet_is_heard(noise: bytes):
    parser = PacketParser()
    parser.feed(noise)
    parser.line_silent()
    assert not parser.pending
    assert parser.feed(PING.to_bytes()) == [PING]


@given(st.binary(max_size=400))
def test_noise_without_silence_costs_no_more_than_one_longest_packet(noise: bytes):
    parser = PacketParser()
    parser.feed(noise)
    heard = [parser.feed(PING.to_bytes()) for _ in range(45)]  # 270 bytes
    assert heard[-1] and heard[-1][-1] == PING


def test_a_packet_hidden_behind_a_false_start_is_heard():
    parser = PacketParser()
    assert parser.feed(b"\xff\xff\x05\xc8" + PING.to_bytes()) == []
    assert parser.line_silent() == [PING]


@pytest.mark.parametrize("wrong", [(-1, 0), (255, 0), (1, 256), (1, 1, bytes(249))])
def test_what_no_wire_could_carry_is_refused(wrong: tuple):
    with pytest.raises(ValueError, match=r"A packet (needs|carries)"):
        Packet(*wrong)
