// The rolling buffers' memory: pixel x of a row lives in bank x mod Banks, a word holds CiLanes channels.
//
// Reads: a segment of up to Banks consecutive pixels, for one engine at a time. Writes: the requantiser's aligned
// pixels, which go first, or the load engine's single word, which waits only while its own bank is taken.
module scanline_scratchpad
  import scanline_pkg::*;
  import scanline_row_pkg::*;
(
    input  logic clk_i,
    input  logic rst_ni,
    // A segment, rotated so that element i is pixel x + i; beyond the row it reads the zero point. The store engine,
    // which reads seldom, goes before the convolution engine.
    input  segment_read_t store_segment_i,
    input  segment_read_t conv_segment_i,
    output logic conv_grant_o,
    output segment_data_t segment_data_o,
    // requantiser: RequantPixels pixels from an aligned x
    input  drain_write_t drain_i,
    // load engine: one word
    input  word_write_t load_i,
    output logic load_grant_o,
    // events
    output logic [BankBits:0] words_read_o,
    output logic [BankBits:0] words_written_o
);
  logic [Banks-1:0] bank_read, bank_valid, bank_below, bank_write;
  logic [Banks-1:0][BankAddrBits-1:0] read_addr;
  logic [BankAddrBits-1:0] write_addr[Banks];
  logic [WordBits-1:0] write_data[Banks];
  logic [Banks-1:0][WordBits-1:0] read_data;

  logic read;
  segment_request_t segment;
  assign conv_grant_o = conv_segment_i.valid && !store_segment_i.valid;
  assign read = conv_segment_i.valid || store_segment_i.valid;
  assign segment = store_segment_i.valid ? store_segment_i.at : conv_segment_i.at;

  // Reads. Bank b holds pixel x + ((b - x) mod Banks) of a segment that starts at x.
  logic [BankBits-1:0] first_bank;
  logic signed [17:0] first_word;
  assign first_bank = segment.x[BankBits-1:0];
  assign first_word = segment.x >>> BankBits;

  always_comb begin
    for (int unsigned b = 0; b < Banks; b++) begin
      logic wrapped;
      logic signed [17:0] word, pixel;
      wrapped = BankBits'(b) < first_bank;
      word = first_word + 18'(wrapped);
      pixel = (word <<< BankBits) + 18'(b);
      bank_valid[b] = segment.row_valid && (pixel >= 0) && (pixel < $signed({2'b0, segment.width}));
      bank_below[b] = pixel < 0;
      bank_read[b] = read && bank_valid[b];
      read_addr[b] = BankAddrBits'(18'(segment.address) + word);
    end
  end

  // Writes.
  logic [BankBits-1:0] drain_bank, load_bank;
  assign drain_bank = drain_i.x[BankBits-1:0];
  assign load_bank  = load_i.x[BankBits-1:0];

  always_comb begin
    load_grant_o = 1'b0;
    for (int unsigned b = 0; b < Banks; b++) begin
      logic drain_here, load_here;
      drain_here = drain_i.valid && ((BankBits'(b) / BankBits'(RequantPixels)) == (drain_bank / BankBits'(RequantPixels)));
      load_here = load_i.valid && (load_bank == BankBits'(b));
      if (drain_here) begin
        bank_write[b] = drain_i.mask[b%RequantPixels];
        write_addr[b] = BankAddrBits'(drain_i.address + (drain_i.x >> BankBits));
        write_data[b] = drain_i.data[b%RequantPixels];
      end else begin
        bank_write[b] = load_here;
        write_addr[b] = BankAddrBits'(load_i.address + (load_i.x >> BankBits));
        write_data[b] = load_i.data;
        if (load_here) load_grant_o = 1'b1;
      end
    end
  end

  for (genvar b = 0; b < Banks; b++) begin : gen_bank
    scanline_ram_1r1w #(
        .Words(BankWords),
        .Parts(1),
        .PartBits(WordBits)
    ) u_ram (
        .clk_i,
        .read_i(bank_read[b]),
        .read_addr_i(read_addr[b]),
        .read_data_o(read_data[b]),
        .write_i(bank_write[b]),
        .write_addr_i(write_addr[b]),
        .write_data_i(write_data[b])
    );
  end

  // The cycle after a read: zero point or nearest pixel where there was none, then rotate.
  logic [Banks-1:0] valid_q, below_q;
  logic edge_q;
  logic [BankBits-1:0] last_bank_q;  // of the row's last pixel
  logic [BankBits-1:0] first_bank_q;
  logic signed [7:0] zero_point_q;
  always_ff @(posedge clk_i) begin
    if (read) begin
      valid_q <= bank_valid;
      below_q <= bank_below;
      edge_q <= segment.edge_pixels;
      last_bank_q <= BankBits'(segment.width - 16'd1);
      first_bank_q <= first_bank;
      zero_point_q <= segment.zero_point;
    end
  end

  always_comb begin
    logic [Banks-1:0][WordBits-1:0] masked;
    logic [WordBits-1:0] left, right;
    left  = edge_q ? read_data[0] : {CiLanes{zero_point_q}};
    right = edge_q ? read_data[last_bank_q] : {CiLanes{zero_point_q}};
    for (int unsigned b = 0; b < Banks; b++) masked[b] = valid_q[b] ? read_data[b] : below_q[b] ? left : right;
    for (int unsigned i = 0; i < Banks; i++) segment_data_o[i] = masked[BankBits'(i)+first_bank_q];
  end

  // Events, counted one cycle late to keep them off the access path.
  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      words_read_o <= '0;
      words_written_o <= '0;
    end else begin
      words_read_o <= (BankBits + 1)'($countones(bank_read));
      words_written_o <= (BankBits + 1)'($countones(bank_write));
    end
  end

`ifdef SCANLINE_ASSERTIONS
  `include "scanline_assert.svh"
  // Words of the banks' reads and writes, before they are cut to a bank's addresses.
  logic check_read_outside, check_drain_outside, check_load_outside;
  always_comb begin
    check_read_outside = 1'b0;
    for (int unsigned b = 0; b < Banks; b++) begin
      if (bank_read[b] && (18'(segment.address) + first_word + 18'(BankBits'(b) < first_bank) >= 18'(BankWords))) begin
        check_read_outside = 1'b1;
      end
    end
    check_drain_outside = 32'(drain_i.address) + 32'(drain_i.x >> BankBits) >= BankWords;
    check_load_outside = 32'(load_i.address) + 32'(load_i.x >> BankBits) >= BankWords;
  end
  always_ff @(posedge clk_i) begin
    if (rst_ni) begin
      `SCANLINE_ASSERT(ConvGrantAsked, !conv_grant_o || conv_segment_i.valid)
      `SCANLINE_ASSERT(OneReader, !conv_grant_o || !store_segment_i.valid)
      `SCANLINE_ASSERT(LoadGrantAsked, !load_grant_o || load_i.valid)
      `SCANLINE_ASSERT(LoadGrantClear, !load_grant_o || !drain_i.valid ||
          (drain_bank / BankBits'(RequantPixels) != load_bank / BankBits'(RequantPixels)))
      `SCANLINE_ASSERT(DrainAligned, !drain_i.valid || (32'(drain_i.x) % RequantPixels == 0))
      `SCANLINE_ASSERT(ReadInBank, !check_read_outside)
      `SCANLINE_ASSERT(DrainInBank, !drain_i.valid || (drain_i.mask == '0) || !check_drain_outside)
      `SCANLINE_ASSERT(LoadInBank, !load_i.valid || !check_load_outside)
    end
  end
`endif
endmodule
