// Named immediate assertions, as the open tools read them (Verilator with --assert, Yosys). They stand in clocked blocks
// at the end of a module, between `ifdef SCANLINE_ASSERTIONS and `endif; synthesis does not see them. Signals of their
// own are named check_*.
`ifndef SCANLINE_ASSERT_SVH
`define SCANLINE_ASSERT_SVH

// CONDITION holds at this clock edge.
`define SCANLINE_ASSERT(NAME, CONDITION) \
  NAME: assert (CONDITION) else $error(`"NAME`");

// A handshake: what is offered stays offered (NAME``Stays), with the same PAYLOAD (NAME``Same), until it is taken; EXCUSED
// cycles may withdraw it. A module item of its own.
`define SCANLINE_HANDSHAKE(NAME, VALID, READY, PAYLOAD, EXCUSED) \
  logic check_``NAME``_offered_q; \
  logic [$bits(PAYLOAD)-1:0] check_``NAME``_payload_q; \
  always_ff @(posedge clk_i) begin \
    check_``NAME``_offered_q <= rst_ni && (VALID) && !(READY); \
    check_``NAME``_payload_q <= PAYLOAD; \
    if (rst_ni && check_``NAME``_offered_q && !(EXCUSED)) begin \
      NAME``Stays: assert (VALID) else $error(`"NAME``Stays`"); \
      NAME``Same: assert (check_``NAME``_payload_q == (PAYLOAD)) else $error(`"NAME``Same`"); \
    end \
  end

`endif
