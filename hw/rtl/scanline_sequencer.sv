// Fetches commands, runs hardware loops, configures buffers, and hands the rest to the engines in order.
module scanline_sequencer
  import scanline_pkg::*;
  import scanline_row_pkg::*;
(
    input  logic clk_i,
    input  logic rst_ni,
    input  logic start_i,
    input  logic stop_i,
    input  logic [31:0] command_address_i,  // multiple of CommandBytes
    input  logic [31:0] command_count_i,
    // bus reads: one command each
    output burst_t read_o,
    input  logic read_ready_i,
    input  read_beat_t beat_i,
    // buffers
    output logic set_o,
    output logic [BufferBits-1:0] set_id_o,
    output buffer_config_t set_config_o,
    // engines
    output logic load_valid_o,
    input  logic load_ready_i,
    output logic load_is_weights_o,
    output load_cmd_t load_cmd_o,
    output loadw_cmd_t loadw_cmd_o,
    output logic conv_valid_o,
    input  logic conv_ready_i,
    output compute_cmd_t conv_cmd_o,
    output logic store_valid_o,
    input  logic store_ready_i,
    output store_cmd_t store_cmd_o,
    input  logic engines_idle_i,
    output logic sync_o,     // all engines are idle: a new epoch of weights begins
    // state
    output logic halted_o,   // pulse
    output logic running_o,
    output logic waiting_sync_o,
    output logic command_done_o,
    output logic illegal_o,
    output logic nesting_o,
    output logic [31:0] position_o
);
  localparam int unsigned SlotBits = $clog2(CommandSlots);
  localparam int unsigned BeatsPerCommand = CommandBytes / BusBytes;
  localparam int unsigned BeatBits = (BeatsPerCommand > 1) ? $clog2(BeatsPerCommand) : 1;
  localparam int unsigned DepthBits = $clog2(LoopDepth + 1);
  localparam int unsigned LoopBits = $clog2(LoopDepth);

  typedef enum logic [1:0] {
    Stopped,
    Read,
    Execute
  } state_e;
  state_e state_q;
  logic [31:0] pc_q, requested_q, arrived_q;
  logic [BeatBits-1:0] beat_q;

  // Loops: where the body starts, executions left, executions done.
  logic [31:0] body_q[LoopDepth];
  logic [23:0] left_q[LoopDepth], done_q[LoopDepth];
  logic [DepthBits-1:0] depth_q;
  logic [LoopBits-1:0] top;  // the innermost open loop
  assign top = LoopBits'(depth_q - 1'b1);

  // A command stays on chip while an open loop may come back to it.
  logic [31:0] oldest;
  assign oldest = (depth_q != '0) ? body_q[0] : pc_q;
  assign read_o.valid = (state_q != Stopped) && !stop_i && (requested_q != command_count_i) &&
      (requested_q - oldest < CommandSlots);
  assign read_o.offset = command_address_i + requested_q * CommandBytes;
  assign read_o.len = 8'(BeatsPerCommand - 1);

  logic [CommandBits-1:0] word;
  logic ram_read;
  assign ram_read = (state_q == Read) && (pc_q != arrived_q);
  logic [BeatsPerCommand-1:0] beat_write;
  always_comb begin
    beat_write = '0;
    if (beat_i.valid) beat_write[beat_q] = 1'b1;
  end
  scanline_ram_1r1w #(
      .Words(CommandSlots),
      .Parts(BeatsPerCommand),
      .PartBits(BusBits)
  ) u_commands (
      .clk_i,
      .read_i(ram_read),
      .read_addr_i(pc_q[SlotBits-1:0]),
      .read_data_o(word),
      .write_i(beat_write),
      .write_addr_i(arrived_q[SlotBits-1:0]),
      .write_data_i({BeatsPerCommand{beat_i.data}})
  );

  // Decode.
  logic [7:0] opcode;
  buffer_cmd_t as_buffer;
  loop_cmd_t as_loop;
  assign opcode = word[7:0];
  assign as_buffer = word[8+:$bits(buffer_cmd_t)];
  assign as_loop = word[8+:$bits(loop_cmd_t)];
  assign load_cmd_o = word[8+:$bits(load_cmd_t)];
  assign loadw_cmd_o = word[8+:$bits(loadw_cmd_t)];
  assign conv_cmd_o.row = word[8+:$bits(row_cmd_t)];
  assign conv_cmd_o.payload = word[8+$bits(row_cmd_t)+:$bits(payload_t)];
  assign store_cmd_o = word[8+:$bits(store_cmd_t)];

  logic [23:0] iteration;
  assign iteration = (depth_q != '0) ? done_q[top] : 24'hffffff;

  logic execute, delayed, advance, illegal, is_compute;
  assign is_compute = is_row(opcode);
  assign conv_cmd_o.compute = compute_of(opcode);
  assign execute = (state_q == Execute) && !stop_i;
  always_comb begin
    delayed = 1'b0;
    if (opcode == OpLoad) delayed = iteration < 24'(load_cmd_o.delay);
    if (is_compute) delayed = iteration < 24'(conv_cmd_o.row.delay);
    if (opcode == OpStore) delayed = iteration < 24'(store_cmd_o.delay);
  end
  assign load_valid_o = execute && !delayed && !illegal && (opcode == OpLoad || opcode == OpLoadw);
  assign load_is_weights_o = opcode == OpLoadw;
  assign conv_valid_o = execute && !delayed && !illegal && is_compute;
  assign store_valid_o = execute && !delayed && !illegal && (opcode == OpStore);

  assign set_o = execute && (opcode == OpBuffer);
  assign set_id_o = BufferBits'(as_buffer.id);
  always_comb begin
    set_config_o.base = as_buffer.base;
    set_config_o.halo = as_buffer.halo;
    set_config_o.operand = as_buffer.operand;
    set_config_o.rows = as_buffer.rows;
    set_config_o.row_pitch = as_buffer.row_pitch;
    set_config_o.group_pitch = as_buffer.group_pitch;
    set_config_o.width = as_buffer.width;
    set_config_o.height = as_buffer.height;
    set_config_o.zero_point = as_buffer.zero_point;
    set_config_o.loaded = as_buffer.loaded;
    set_config_o.freed_by_store = as_buffer.freed_by_store;
    set_config_o.freed_by_conv = as_buffer.freed_by_conv;
  end

  logic bad_buffer;
  assign bad_buffer = (32'(as_buffer.id) >= Buffers) || (as_buffer.rows == '0);
  always_comb begin
    advance = 1'b0;
    illegal = 1'b0;
    nesting_o = 1'b0;
    unique case (opcode)
      OpBuffer: begin
        advance = !bad_buffer;
        illegal = bad_buffer;
      end
      OpLoop: begin
        nesting_o = execute && (32'(depth_q) == LoopDepth || as_loop.count == '0);
        advance = !nesting_o;
      end
      OpEnd: begin
        nesting_o = execute && (depth_q == '0);
        advance = !nesting_o;
      end
      OpLoad: advance = delayed || load_ready_i;
      OpLoadw: begin
        illegal = !Normaliser && (loadw_cmd_o.kind == KindNorm);
        advance = !illegal && load_ready_i;
      end
      OpStore: begin
        illegal = !Normaliser && store_cmd_o.statistics;
        advance = !illegal && (delayed || store_ready_i);
      end
      OpSync, OpHalt: advance = engines_idle_i;
      default: begin
        // Rows: those of the array have several sources, a unit beside it reads no second operand but a WARP's flow.
        illegal = !is_compute || !has_unit(opcode) ||
            (is_beside(conv_cmd_o.compute) ? conv_cmd_o.row.operand.enable != (opcode == OpWarp)
                                           : 32'(conv_cmd_o.row.sources.more_sources) >= Sources);
        advance = !illegal && (delayed || conv_ready_i);
      end
    endcase
  end
  assign illegal_o = (execute && illegal) || ((state_q == Read) && !stop_i && (pc_q == command_count_i));
  assign sync_o = execute && (opcode == OpSync) && advance;
  assign halted_o = execute && (opcode == OpHalt) && advance;
  assign command_done_o = execute && advance;
  assign running_o = state_q != Stopped;
  assign waiting_sync_o = execute && (opcode == OpSync || opcode == OpHalt) && !advance;
  assign position_o = pc_q;

  always_ff @(posedge clk_i or negedge rst_ni) begin
    if (!rst_ni) begin
      state_q <= Stopped;
      pc_q <= '0;
      requested_q <= '0;
      arrived_q <= '0;
      beat_q <= '0;
      depth_q <= '0;
    end else if (start_i) begin
      state_q <= Read;
      pc_q <= '0;
      requested_q <= '0;
      arrived_q <= '0;
      beat_q <= '0;
      depth_q <= '0;
    end else begin
      if (read_o.valid && read_ready_i) requested_q <= requested_q + 32'd1;
      if (beat_i.valid) begin
        beat_q <= (32'(beat_q) == BeatsPerCommand - 1) ? '0 : beat_q + 1'b1;
        if (32'(beat_q) == BeatsPerCommand - 1) arrived_q <= arrived_q + 32'd1;
      end
      unique case (state_q)
        Read: if (ram_read) state_q <= Execute;
        Execute:
        if (advance && !stop_i) begin
          state_q <= halted_o ? Stopped : Read;
          pc_q <= pc_q + 32'd1;
          if (opcode == OpLoop) depth_q <= depth_q + 1'b1;
          if (opcode == OpEnd) begin
            if (left_q[top] == 24'd1) depth_q <= depth_q - 1'b1;
            else pc_q <= body_q[top];
          end
        end
        default: ;
      endcase
      if (stop_i) state_q <= Stopped;
    end
  end

  always_ff @(posedge clk_i) begin
    if (execute && advance && (opcode == OpLoop)) begin
      body_q[depth_q[LoopBits-1:0]] <= pc_q + 32'd1;
      left_q[depth_q[LoopBits-1:0]] <= as_loop.count;
      done_q[depth_q[LoopBits-1:0]] <= '0;
    end
    if (execute && advance && (opcode == OpEnd)) begin
      left_q[top] <= left_q[top] - 24'd1;
      done_q[top] <= done_q[top] + 24'd1;
    end
  end

`ifdef SCANLINE_ASSERTIONS
  `include "scanline_assert.svh"
  `SCANLINE_HANDSHAKE(Read, read_o.valid, read_ready_i, ({read_o.offset, read_o.len}), stop_i || start_i)
  `SCANLINE_HANDSHAKE(Load, load_valid_o, load_ready_i, ({load_is_weights_o, load_cmd_o, loadw_cmd_o}), stop_i || start_i)
  `SCANLINE_HANDSHAKE(Compute, conv_valid_o, conv_ready_i, conv_cmd_o, stop_i || start_i)
  `SCANLINE_HANDSHAKE(Store, store_valid_o, store_ready_i, store_cmd_o, stop_i || start_i)
  always_ff @(posedge clk_i) begin
    if (rst_ni) begin
      `SCANLINE_ASSERT(StateKnown, (state_q == Stopped) || (state_q == Read) || (state_q == Execute))
      `SCANLINE_ASSERT(DepthBound, 32'(depth_q) <= LoopDepth)
      `SCANLINE_ASSERT(RequestedBound, requested_q <= command_count_i)
      // A request that a stop withdraws may have been taken by the arbiter: its data still comes.
      `SCANLINE_ASSERT(ArrivedBound, stop_i || (arrived_q <= requested_q))
      `SCANLINE_ASSERT(ExecutedArrived, (state_q != Execute) || stop_i || (pc_q < arrived_q))
      `SCANLINE_ASSERT(CommandsFit, requested_q - oldest <= CommandSlots)
      `SCANLINE_ASSERT(BeatAsked, !beat_i.valid || stop_i || (arrived_q != requested_q))
      `SCANLINE_ASSERT(OneEngine, $onehot0({load_valid_o, conv_valid_o, store_valid_o, set_o, sync_o, halted_o}))
      `SCANLINE_ASSERT(LoopNotOver, !(execute && advance && (opcode == OpEnd)) || (left_q[top] != '0))
      `SCANLINE_ASSERT(SyncWhenIdle, !sync_o || engines_idle_i)
      `SCANLINE_ASSERT(HaltWhenIdle, !halted_o || engines_idle_i)
      `SCANLINE_ASSERT(IllegalGoesNowhere, !illegal || !(load_valid_o || conv_valid_o || store_valid_o))
    end
  end
`endif
endmodule
