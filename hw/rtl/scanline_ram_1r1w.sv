// A RAM with one read and one write port and a write enable per part of a word.
// Reads take one cycle and hold their output. Reading a word while it is written is undefined; no user does.
module scanline_ram_1r1w #(
    parameter int unsigned Words = 16,
    parameter int unsigned Parts = 1,
    parameter int unsigned PartBits = 8,
    localparam int unsigned AddrBits = (Words > 1) ? $clog2(Words) : 1
) (
    input  logic                            clk_i,
    input  logic                            read_i,
    input  logic [AddrBits-1:0]             read_addr_i,
    output logic [Parts-1:0][PartBits-1:0]  read_data_o,
    input  logic [Parts-1:0]                write_i,
    input  logic [AddrBits-1:0]             write_addr_i,
    input  logic [Parts-1:0][PartBits-1:0]  write_data_i
);
  (* ram_style = "block" *) logic [Parts-1:0][PartBits-1:0] mem[Words];

  always_ff @(posedge clk_i) begin
    for (int unsigned i = 0; i < Parts; i++) begin
      if (write_i[i]) mem[write_addr_i][i] <= write_data_i[i];
    end
    if (read_i) read_data_o <= mem[read_addr_i];
  end

`ifdef SCANLINE_ASSERTIONS
  `include "scanline_assert.svh"
  always_ff @(posedge clk_i) begin
    // Reading a word while it is written is undefined.
    `SCANLINE_ASSERT(NoCollision, !read_i || (write_i == '0) || (read_addr_i != write_addr_i))
  end
`endif
endmodule
