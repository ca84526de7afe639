// A row number per rolling buffer, set by one writer and 0 since the buffer was configured. Memories with a single write
// port, and a copy per reader, so that an FPGA keeps them in LUT RAM instead of flip-flops and multiplexers.
module scanline_row_marks
  import scanline_pkg::*;
#(
    parameter int unsigned Readers = 1,
    parameter int unsigned Bits = 16
) (
    input  logic clk_i,
    input  logic clear_i,
    input  logic [BufferBits-1:0] clear_id_i,
    input  logic write_i,
    input  logic [BufferBits-1:0] write_id_i,
    input  logic [Bits-1:0] write_data_i,
    // combinational
    input  logic [Readers-1:0][BufferBits-1:0] read_id_i,
    output logic [Readers-1:0][Bits-1:0] read_data_o
);
  logic [Bits-1:0] mark_q[Buffers];
  logic [Buffers-1:0] written_q;

  always_ff @(posedge clk_i) begin
    if (write_i) mark_q[write_id_i] <= write_data_i;
  end

  always_ff @(posedge clk_i) begin
    if (write_i) written_q[write_id_i] <= 1'b1;
    if (clear_i) written_q[clear_id_i] <= 1'b0;
  end

  always_comb begin
    for (int unsigned i = 0; i < Readers; i++) begin
      read_data_o[i] = written_q[read_id_i[i]] ? mark_q[read_id_i[i]] : '0;
    end
  end

`ifdef SCANLINE_ASSERTIONS
  `include "scanline_assert.svh"
  always_ff @(posedge clk_i) begin
    // A buffer is configured while nothing works on it.
    `SCANLINE_ASSERT(NoneWhileCleared, !write_i || !clear_i || (write_id_i != clear_id_i))
  end
`endif
endmodule
