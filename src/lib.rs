//! Hairpin: a STUN/TURN server for the public Internet.
