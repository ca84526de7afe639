// LAYER_NORM: a row's pixels normalised over their channels (hw/numerics/layer_norm.py). The words of a pixel group are
// read twice: once to be summed up, and, when the reciprocal roots of its pixels are there, once to be taken apart from
// the mean and multiplied. While one group's words are multiplied, the next groups' are summed up, those of the next row
// too. The requantiser takes psums a chunk of pixels at a time, and so everything here works on chunks.
module scanline_layer_norm
  import scanline_pkg::*;
  import scanline_row_pkg::*;
(
    input  logic clk_i,
    input  logic rst_ni,
    // a row, when there is room for it
    input  logic start_i,
    input  unit_row_t row_i,
    output logic ready_o,
    output logic reading_o,  // of some row not all words are read
    output logic busy_o,     // of some row not all psums are taken
    output rows_freed_t free_o,
    // scratchpad
    output segment_read_t segment_o,
    input  logic segment_grant_i,
    input  segment_data_t segment_data_i,
    // psums
    output psum_chunk_t chunk_o,
    input  logic chunk_taken_i
);
  localparam int unsigned ChunkBits = (RequantChunks > 1) ? $clog2(RequantChunks) : 1;
  localparam int unsigned Pixels = RequantPixels;
  localparam int unsigned MeanBits = 12;
  localparam int unsigned SpreadBits = 40;
  localparam int unsigned MantissaBits = 18;
  localparam int unsigned IndexBits = 8;
  localparam int unsigned GuessBits = 9;
  localparam int unsigned RootBits = 16;
  localparam int unsigned UnitPlaces = 20;  // places of a product, less pairs of zeros, to drop for a psum
  localparam int unsigned ProductBits = 40;
  // Groups whose figures are kept: so many that those of short pixels are there when they are needed.
  localparam int unsigned Figures = 8;
  localparam int unsigned FigureBits = 3;
  typedef logic [PixelLanes-1:0][WordBits-1:0] word_t;

  // Two rows: one is made, the next is summed up. A number says which of them a stage works on.
  typedef struct packed {
    logic [15:0] address;  // of the source's row
    logic [15:0] word_pitch;
    logic [15:0] source_width;
    logic signed [15:0] x_offset;
    logic signed [7:0] zero_point;
    logic [15:0] pixel_groups;
    logic [11:0] words;
    layer_norm_payload_t norm;
    rows_freed_t free;  // when it has been read
  } norm_row_t;
  norm_row_t [1:0] row_q;
  norm_row_t row_now;
  logic slot_q;        // where the next row goes
  logic [1:0] rows_q;  // here, of either
  logic row_ends;
  assign ready_o = rows_q < 2'd2;
  assign busy_o = rows_q != '0;
  always_comb begin
    row_now.address = row_i.source.base +
        16'(slot_of(row_i.y, row_i.source.next_row, row_i.source.next_slot, row_i.source.rows) * row_i.source.row_pitch);
    row_now.word_pitch = row_i.source.group_pitch;
    row_now.source_width = row_i.source.width;
    row_now.x_offset = row_i.x_offset;
    row_now.zero_point = row_i.source.zero_point;
    row_now.pixel_groups = row_i.pixel_groups;
    row_now.words = row_i.words;
    row_now.norm = row_i.payload.layer_norm;
    row_now.free = '{valid: row_i.free_source, id: row_i.source_id, to: row_i.free_source_to};
  end

  // Reads: of either pass a word is asked for when it has room; in turns, and what is asked for stays until it is granted.
  logic asked_q, asks_out_q, turn_q;
  logic [1:0] sum_rows_q, out_rows_q;  // with words to be read
  logic sum_slot_q, out_slot_q;
  logic sum_pending_q, out_pending_q;
  logic [15:0] sum_group_q, out_group_q, asked_group;
  logic [11:0] sum_word_q, out_word_q, asked_word;
  logic [1:0] sum_count_q, out_count_q;
  logic wants_sum, wants_out, asks_out, asked_slot, asked_last_word, asked_last_group;
  assign wants_sum = (sum_rows_q != '0) && (sum_count_q + 2'(sum_pending_q) < 2'd2);
  assign wants_out = (out_rows_q != '0) && (out_count_q + 2'(out_pending_q) < 2'd2);
  assign asks_out = asked_q ? asks_out_q : wants_out && (turn_q || !wants_sum);
  assign asked_group = asks_out ? out_group_q : sum_group_q;
  assign asked_word = asks_out ? out_word_q : sum_word_q;
  assign asked_slot = asks_out ? out_slot_q : sum_slot_q;
  assign asked_last_word = asked_word + 12'd1 == row_q[asked_slot].words;
  assign asked_last_group = asked_group + 16'd1 == row_q[asked_slot].pixel_groups;
  assign reading_o = out_rows_q != '0;
  assign segment_o.valid = wants_sum || wants_out;
  always_comb begin
    segment_o.at.row_valid = 1'b1;
    segment_o.at.edge_pixels = 1'b0;
    segment_o.at.zero_point = row_q[asked_slot].zero_point;
    segment_o.at.address = row_q[asked_slot].address + 16'(16'(asked_word) * row_q[asked_slot].word_pitch);
    segment_o.at.x = signed'({2'b0, 16'(asked_group * 16'(PixelLanes))}) + 18'(row_q[asked_slot].x_offset);
    segment_o.at.width = segment_end(segment_o.at.x, 18'(PixelLanes), row_q[asked_slot].source_width);
  end

  word_t arriving, sum_words_q[2], out_words_q[2];
  logic sum_head_q, sum_tail_q, out_head_q, out_tail_q, sum_pop, out_pop;
  always_comb for (int unsigned p = 0; p < PixelLanes; p++) arriving[p] = segment_data_i[p];

  // Sums, chunk by chunk. A group's last word waits until the figures of an earlier group are no longer needed.
  logic [ChunkBits-1:0] sum_chunk_q;
  logic [11:0] summed_word_q;
  logic [15:0] summed_group_q;
  logic summed_slot_q;
  logic [FigureBits-1:0] sum_bank_q;
  logic sum_go, summed_last_word, summed_last_group, sum_last_chunk;
  logic [Figures-1:0] claimed_q, figured_q;
  assign summed_last_word = summed_word_q + 12'd1 == row_q[summed_slot_q].words;
  assign summed_last_group = summed_group_q + 16'd1 == row_q[summed_slot_q].pixel_groups;
  assign sum_last_chunk = (RequantChunks == 1) || (sum_chunk_q == ChunkBits'(RequantChunks - 1));
  assign sum_go = (sum_count_q != '0) && !(summed_last_word && (sum_chunk_q == '0) && claimed_q[sum_bank_q]);
  assign sum_pop = sum_go && sum_last_chunk;

  typedef struct packed {
    logic valid;
    logic slot;  // of its row
    logic [FigureBits-1:0] bank;
    logic [ChunkBits-1:0] chunk;
  } place_t;
  typedef struct packed {
    place_t place;
    logic first;
    logic last;
  } summing_t;
  summing_t summing_q;
  logic signed [CiLanes-1:0][7:0] codes[Pixels];
  logic signed [11:0] word_total[Pixels], word_total_q[Pixels];
  logic [18:0] word_squares[Pixels], word_squares_q[Pixels];
  always_comb begin
    for (int unsigned p = 0; p < Pixels; p++) begin
      codes[p] = sum_words_q[sum_head_q][32'(sum_chunk_q)*Pixels+p];
      word_total[p] = '0;
      word_squares[p] = '0;
      for (int unsigned j = 0; j < CiLanes; j++) begin
        if (32'(summed_word_q) * CiLanes + j < 32'(row_q[summed_slot_q].norm.norm_channels)) begin
          word_total[p] = word_total[p] + 12'(signed'(codes[p][j]));
          word_squares[p] = word_squares[p] + 19'(16'(signed'(codes[p][j])) * 16'(signed'(codes[p][j])));
        end
      end
    end
  end

  logic signed [19:0] total_q[RequantChunks][Pixels], total[Pixels];
  logic [26:0] squares_q[RequantChunks][Pixels], squares[Pixels];
  always_comb begin
    for (int unsigned p = 0; p < Pixels; p++) begin
      total[p] = 20'(word_total_q[p]) + (summing_q.first ? '0 : total_q[summing_q.place.chunk][p]);
      squares[p] = 27'(word_squares_q[p]) + (summing_q.first ? '0 : squares_q[summing_q.place.chunk][p]);
    end
  end

  // Figures of a chunk's pixels, a stage a cycle: sums doubled; products; spread and mean; mantissa; first guess; Newton's
  // step; reciprocal root.
  place_t place_q[6];
  logic [3:0] doublings;
  logic [12:0] count;
  logic [23:0] reciprocal;
  logic [38:0] epsilon;
  assign doublings = row_q[summing_q.place.slot].norm.norm_doublings;
  assign count = row_q[place_q[0].slot].norm.norm_channels << row_q[place_q[0].slot].norm.norm_doublings;
  assign reciprocal = row_q[place_q[0].slot].norm.norm_reciprocal;
  assign epsilon = row_q[place_q[1].slot].norm.norm_epsilon;
  logic signed [19:0] doubled_total_q[Pixels];
  logic [26:0] doubled_squares_q[Pixels];
  logic [SpreadBits-1:0] squares_product_q[Pixels], total_product_q[Pixels], spread_q[Pixels], normal[Pixels];
  logic signed [45:0] mean_product_q[Pixels];
  logic signed [19:0] mean2_q[Pixels], mean3_q[Pixels], mean4_q[Pixels], mean5_q[Pixels];
  logic [4:0] pairs[Pixels], pairs3_q[Pixels], pairs4_q[Pixels], pairs5_q[Pixels];
  logic [MantissaBits-1:0] mantissa3_q[Pixels], mantissa4_q[Pixels];
  logic [GuessBits:0] guess[Pixels], guess4_q[Pixels], guess5_q[Pixels];
  logic [2*GuessBits+1:0] square4_q[Pixels];
  logic [MantissaBits+1:0] step5_q[Pixels];
  logic [MantissaBits+2*GuessBits+1:0] nearness[Pixels];
  logic [MantissaBits+GuessBits+2:0] root_product[Pixels];

  function automatic logic [(1<<IndexBits)-1:0][GuessBits:0] first_guesses();
    for (int unsigned i = 0; i < (1 << IndexBits); i++) begin
      int unsigned square, root;
      square = (1 << (2 * GuessBits + IndexBits + 1)) / (2 * i + 1);
      root = 0;
      for (int unsigned b = 0; b < 14; b++) begin
        if ((root + (8192 >> b)) * (root + (8192 >> b)) <= square) root = root + (8192 >> b);
      end
      first_guesses[i] = (GuessBits + 1)'(root);
    end
  endfunction
  localparam logic [(1<<IndexBits)-1:0][GuessBits:0] Guesses = first_guesses();

  always_comb begin
    for (int unsigned p = 0; p < Pixels; p++) begin
      pairs[p] = '0;
      for (int unsigned k = 0; k < SpreadBits / 2; k++) begin
        if (spread_q[p][2*k+:2] != '0) pairs[p] = 5'(SpreadBits / 2 - 1 - k);
      end
      normal[p] = spread_q[p] << {pairs[p], 1'b0};
      guess[p] = Guesses[mantissa3_q[p][MantissaBits-1-:IndexBits]];
      nearness[p] = (MantissaBits + 2 * GuessBits + 2)'(mantissa4_q[p]) * (MantissaBits + 2 * GuessBits + 2)'(square4_q[p]);
      root_product[p] = (MantissaBits + GuessBits + 3)'(guess5_q[p]) * (MantissaBits + GuessBits + 3)'(step5_q[p]);
    end
  end

  logic signed [19:0] mean_q[Figures][RequantChunks][Pixels];
  logic [4:0] pairs_q[Figures][RequantChunks][Pixels];
  logic [RootBits+1:0] root_q[Figures][RequantChunks][Pixels];
  always_ff @(posedge clk_i) begin
    if (sum_go) begin
      word_total_q <= word_total;
      word_squares_q <= word_squares;
    end
    for (int unsigned p = 0; p < Pixels; p++) begin
      if (summing_q.place.valid) begin
        total_q[summing_q.place.chunk][p] <= total[p];
        squares_q[summing_q.place.chunk][p] <= squares[p];
        doubled_total_q[p] <= total[p] <<< doublings;
        doubled_squares_q[p] <= squares[p] << doublings;
      end
      if (place_q[0].valid) begin
        squares_product_q[p] <= SpreadBits'(count) * SpreadBits'(doubled_squares_q[p]);
        total_product_q[p] <= SpreadBits'(SpreadBits'(doubled_total_q[p]) * SpreadBits'(doubled_total_q[p]));
        mean_product_q[p] <= 46'(doubled_total_q[p]) * signed'(46'(reciprocal));
      end
      if (place_q[1].valid) begin
        spread_q[p] <= squares_product_q[p] - total_product_q[p] + SpreadBits'(epsilon);
        mean2_q[p] <= 20'((mean_product_q[p] + 46'sd4194304) >>> 23);
      end
      if (place_q[2].valid) begin
        pairs3_q[p] <= pairs[p];
        mantissa3_q[p] <= normal[p][SpreadBits-1-:MantissaBits];
        mean3_q[p] <= mean2_q[p];
      end
      if (place_q[3].valid) begin
        guess4_q[p] <= guess[p];
        square4_q[p] <= (2 * GuessBits + 2)'(guess[p]) * (2 * GuessBits + 2)'(guess[p]);
        mantissa4_q[p] <= mantissa3_q[p];
        pairs4_q[p] <= pairs3_q[p];
        mean4_q[p] <= mean3_q[p];
      end
      if (place_q[4].valid) begin
        step5_q[p] <= (MantissaBits + 2)'(3 << MantissaBits) - (MantissaBits + 2)'(nearness[p] >> (2 * GuessBits));
        guess5_q[p] <= guess4_q[p];
        pairs5_q[p] <= pairs4_q[p];
        mean5_q[p] <= mean4_q[p];
      end
      if (place_q[5].valid) begin
        mean_q[place_q[5].bank][place_q[5].chunk][p] <= mean5_q[p];
        pairs_q[place_q[5].bank][place_q[5].chunk][p] <= pairs5_q[p];
        root_q[place_q[5].bank][place_q[5].chunk][p] <=
            (RootBits + 2)'(root_product[p] >> (GuessBits + MantissaBits + 1 - RootBits));
      end
    end
  end

  // Psums: apart from the mean; times the root; rounded. The stages move when the last is empty or taken.
  logic [ChunkBits-1:0] out_chunk_q;
  logic [11:0] made_word_q;
  logic [15:0] made_group_q;
  logic made_slot_q;
  logic [FigureBits-1:0] out_bank_q;
  logic out_go, out_last_chunk, made_last_word, made_last_group, out_ends, moves;
  logic [2:0] made_valid_q, made_last_q;
  assign moves = !made_valid_q[2] || chunk_taken_i;
  assign out_last_chunk = (RequantChunks == 1) || (out_chunk_q == ChunkBits'(RequantChunks - 1));
  assign made_last_word = made_word_q + 12'd1 == row_q[made_slot_q].words;
  assign made_last_group = made_group_q + 16'd1 == row_q[made_slot_q].pixel_groups;
  assign out_go = moves && (out_count_q != '0) && figured_q[out_bank_q];
  assign out_pop = out_go && out_last_chunk;
  assign out_ends = out_pop && made_last_word;

  logic signed [7:0] out_code[Pixels][CiLanes];
  logic signed [20:0] apart_q[Pixels][CiLanes];
  logic [RootBits+1:0] apart_root_q[Pixels];
  logic [4:0] apart_pairs_q[Pixels], product_pairs_q[Pixels];
  logic signed [ProductBits-1:0] product_q[Pixels][CiLanes], rounded[Pixels][CiLanes];
  for (genvar p = 0; p < Pixels; p++) begin : gen_pixel
    for (genvar j = 0; j < CiLanes; j++) begin : gen_channel
      assign out_code[p][j] = out_words_q[out_head_q][32'(out_chunk_q)*Pixels+p][8*j+:8];
      scanline_round_shift #(.Width(ProductBits)) u_round (
          .product_i(product_q[p][j]),
          .shift_i(6'(UnitPlaces) - 6'(product_pairs_q[p])),
          .rounded_o(rounded[p][j])
      );
      always_ff @(posedge clk_i) begin
        if (out_go) apart_q[p][j] <= (21'(out_code[p][j]) <<< MeanBits) - 21'(mean_q[out_bank_q][out_chunk_q][p]);
        if (moves && made_valid_q[0]) begin
          product_q[p][j] <= ProductBits'(apart_q[p][j]) * signed'(ProductBits'(apart_root_q[p]));
        end
        if (moves && made_valid_q[1]) chunk_o.data[p][j] <= rounded[p][j][31:0];
      end
    end
    always_ff @(posedge clk_i) begin
      if (out_go) begin
        apart_root_q[p] <= root_q[out_bank_q][out_chunk_q][p];
        apart_pairs_q[p] <= pairs_q[out_bank_q][out_chunk_q][p];
      end
      if (moves && made_valid_q[0]) product_pairs_q[p] <= apart_pairs_q[p];
    end
  end
  assign chunk_o.valid = made_valid_q[2];
  assign row_ends = made_valid_q[2] && made_last_q[2] && chunk_taken_i;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      asked_q <= 1'b0;
      asks_out_q <= 1'b0;
      turn_q <= 1'b0;
      free_o <= '0;
      slot_q <= 1'b0;
      rows_q <= '0;
      sum_rows_q <= '0;
      out_rows_q <= '0;
      sum_slot_q <= 1'b0;
      out_slot_q <= 1'b0;
      summed_slot_q <= 1'b0;
      summed_group_q <= '0;
      made_slot_q <= 1'b0;
      sum_pending_q <= 1'b0;
      out_pending_q <= 1'b0;
      sum_group_q <= '0;
      out_group_q <= '0;
      sum_word_q <= '0;
      out_word_q <= '0;
      sum_count_q <= '0;
      out_count_q <= '0;
      sum_head_q <= 1'b0;
      sum_tail_q <= 1'b0;
      out_head_q <= 1'b0;
      out_tail_q <= 1'b0;
      sum_chunk_q <= '0;
      summed_word_q <= '0;
      sum_bank_q <= '0;
      claimed_q <= '0;
      figured_q <= '0;
      summing_q <= '0;
      for (int unsigned s = 0; s < 6; s++) place_q[s] <= '0;
      out_chunk_q <= '0;
      made_word_q <= '0;
      made_group_q <= '0;
      out_bank_q <= '0;
      made_valid_q <= '0;
      made_last_q <= '0;
    end else begin
      // Reads.
      asked_q <= segment_o.valid && !segment_grant_i;
      asks_out_q <= asks_out;
      sum_pending_q <= segment_grant_i && !asks_out;
      out_pending_q <= segment_grant_i && asks_out;
      if (start_i) slot_q <= !slot_q;
      free_o <= row_q[out_slot_q].free;
      free_o.valid <= segment_grant_i && asks_out && asked_last_word && asked_last_group && row_q[out_slot_q].free.valid;
      rows_q <= rows_q + 2'(start_i) - 2'(row_ends);
      sum_rows_q <= sum_rows_q + 2'(start_i) - 2'(segment_grant_i && !asks_out && asked_last_word && asked_last_group);
      out_rows_q <= out_rows_q + 2'(start_i) - 2'(segment_grant_i && asks_out && asked_last_word && asked_last_group);
      if (segment_grant_i) begin
        turn_q <= !asks_out;
        if (asks_out) begin
          out_word_q <= asked_last_word ? '0 : out_word_q + 12'd1;
          if (asked_last_word) begin
            out_group_q <= asked_last_group ? '0 : out_group_q + 16'd1;
            if (asked_last_group) out_slot_q <= !out_slot_q;
          end
        end else begin
          sum_word_q <= asked_last_word ? '0 : sum_word_q + 12'd1;
          if (asked_last_word) begin
            sum_group_q <= asked_last_group ? '0 : sum_group_q + 16'd1;
            if (asked_last_group) sum_slot_q <= !sum_slot_q;
          end
        end
      end
      sum_count_q <= sum_count_q + 2'(sum_pending_q) - 2'(sum_pop);
      out_count_q <= out_count_q + 2'(out_pending_q) - 2'(out_pop);
      if (sum_pending_q) sum_tail_q <= !sum_tail_q;
      if (sum_pop) sum_head_q <= !sum_head_q;
      if (out_pending_q) out_tail_q <= !out_tail_q;
      if (out_pop) out_head_q <= !out_head_q;

      // Sums.
      if (sum_go) sum_chunk_q <= sum_last_chunk ? '0 : sum_chunk_q + 1'b1;
      if (sum_pop) begin
        summed_word_q <= summed_last_word ? '0 : summed_word_q + 12'd1;
        if (summed_last_word) begin
          sum_bank_q <= sum_bank_q + 1'b1;
          summed_group_q <= summed_last_group ? '0 : summed_group_q + 16'd1;
          if (summed_last_group) summed_slot_q <= !summed_slot_q;
        end
      end
      summing_q.place <= '{valid: sum_go, slot: summed_slot_q, bank: sum_bank_q, chunk: sum_chunk_q};
      summing_q.first <= summed_word_q == '0;
      summing_q.last <= summed_last_word;
      place_q[0] <= summing_q.place;
      place_q[0].valid <= summing_q.place.valid && summing_q.last;
      for (int unsigned s = 1; s < 6; s++) place_q[s] <= place_q[s-1];
      if (sum_pop && summed_last_word) claimed_q[sum_bank_q] <= 1'b1;
      if (place_q[5].valid && (place_q[5].chunk == ChunkBits'(RequantChunks - 1))) figured_q[place_q[5].bank] <= 1'b1;

      // Psums.
      if (out_go) out_chunk_q <= out_last_chunk ? '0 : out_chunk_q + 1'b1;
      if (out_pop) made_word_q <= made_last_word ? '0 : made_word_q + 12'd1;
      if (out_ends) begin
        made_group_q <= made_last_group ? '0 : made_group_q + 16'd1;
        if (made_last_group) made_slot_q <= !made_slot_q;
        out_bank_q <= out_bank_q + 1'b1;
        claimed_q[out_bank_q] <= 1'b0;
        figured_q[out_bank_q] <= 1'b0;
      end
      if (moves) begin
        made_valid_q <= {made_valid_q[1:0], out_go};
        made_last_q <= {made_last_q[1:0], out_ends && made_last_group};
      end
    end
  end

  always_ff @(posedge clk_i) begin
    if (start_i) row_q[slot_q] <= row_now;
    if (sum_pending_q) sum_words_q[sum_tail_q] <= arriving;
    if (out_pending_q) out_words_q[out_tail_q] <= arriving;
  end

  logic unused;
  assign unused = ^{row_i, segment_data_i, row_q[0].norm.padding, row_q[1].norm.padding};

`ifdef SCANLINE_ASSERTIONS
  `include "scanline_assert.svh"
  `SCANLINE_HANDSHAKE(Segment, segment_o.valid, segment_grant_i, segment_o, 1'b0)
  always_ff @(posedge clk_i) begin
    if (rst_ni) begin
      `SCANLINE_ASSERT(StartsWithRoom, !start_i || ready_o)
      `SCANLINE_ASSERT(WorksOnARow, busy_o || !(segment_o.valid || chunk_o.valid))
      `SCANLINE_ASSERT(SumWordFits, !sum_pending_q || (sum_count_q < 2'd2))
      `SCANLINE_ASSERT(OutWordFits, !out_pending_q || (out_count_q < 2'd2))
      `SCANLINE_ASSERT(WordCounted, !segment_o.valid || (asked_word < row_q[asked_slot].words))
      `SCANLINE_ASSERT(GroupCounted, !segment_o.valid || (asked_group < row_q[asked_slot].pixel_groups))
      `SCANLINE_ASSERT(SumsOfARow, sum_rows_q <= rows_q)
      `SCANLINE_ASSERT(PsumsOfARow, out_rows_q <= rows_q)
      `SCANLINE_ASSERT(FiguresClaimed, !place_q[5].valid || (place_q[5].chunk != ChunkBits'(RequantChunks - 1)) ||
          claimed_q[place_q[5].bank])
      `SCANLINE_ASSERT(FiguresOnce, !place_q[5].valid || !figured_q[place_q[5].bank])
      `SCANLINE_ASSERT(FiguredClaimed, (figured_q & ~claimed_q) == '0)
      `SCANLINE_ASSERT(SpreadNotZero, !place_q[2].valid || (spread_q[0] != '0))
      `SCANLINE_ASSERT(MantissaNormal, !place_q[3].valid || (mantissa3_q[0][MantissaBits-1-:2] != '0))
      `SCANLINE_ASSERT(CountInBits, !place_q[0].valid ||
          (32'(row_q[place_q[0].slot].norm.norm_channels) << row_q[place_q[0].slot].norm.norm_doublings <= 4096))
    end
  end
`endif
endmodule
